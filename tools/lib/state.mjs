// Memory that a device has beside its state block is lost with its process. This finds it in the sources of devices:
// fields that can change, containers that can be filled, variables that outlive a call. What is right to lose carries
// a comment with `transient:` and the reason (how it is rebuilt, or why nobody misses it), on the field or on its class.
import { parseAst } from 'vite';

const containers =
  /^(Map|Set|WeakMap|WeakSet|Array|ArrayBuffer|SharedArrayBuffer|DataView|\w+\d+(?:Clamped)?Array)$/;

/** Whether the value of this expression is something that can be filled or changed. */
const isContainer = (e) => {
  if (!e) return false;
  if (e.type === 'ArrayExpression') return true;
  if (e.type === 'NewExpression' || e.type === 'CallExpression') {
    // Of length 0: holds nothing, whoever has it.
    if (e.arguments.length === 1 && e.arguments[0].value === 0) return false;
    const { callee } = e;
    if (callee.type === 'Identifier') return containers.test(callee.name);
    return (
      callee.type === 'MemberExpression' &&
      callee.object.type === 'Identifier' &&
      containers.test(callee.object.name)
    );
  }
  return false;
};

/** Whether a type lets its value be changed in place. */
const isMutableType = (t) => {
  if (!t) return false;
  if (t.type === 'TSTypeAnnotation') return isMutableType(t.typeAnnotation);
  if (t.type === 'TSArrayType') return true;
  return t.type === 'TSTypeReference' && t.typeName.type === 'Identifier' && containers.test(t.typeName.name);
};

const isReadonlyType = (t) =>
  t?.type === 'TSTypeAnnotation'
    ? isReadonlyType(t.typeAnnotation)
    : (t?.type === 'TSTypeOperator' && t.operator === 'readonly') ||
      (t?.type === 'TSTypeReference' && /^Readonly/.test(t.typeName.name ?? ''));

/** The comment right above a node, or behind it on its line. */
const commentOf = (text, node) => {
  const before = text.slice(0, text.lastIndexOf('\n', node.start - 1) + 1);
  const trimmed = before.trimEnd();
  let above = '';
  if (trimmed.endsWith('*/')) above = trimmed.slice(trimmed.lastIndexOf('/*') + 2, -2);
  else above = /(?:(?:^|\n)[ \t]*\/\/[^\n]*)+$/.exec(trimmed)?.[0] ?? '';
  const line = text.slice(node.end, `${text}\n`.indexOf('\n', node.end));
  return `${above}\n${/\/\/(.*)$/.exec(line)?.[1] ?? ''}`;
};
const isTransient = (text, node) => /(?:^|[\s*/])transient: *\S+/i.test(commentOf(text, node));

function* classesIn(node) {
  if (!node || typeof node !== 'object') return;
  if (node.type === 'ClassDeclaration' || node.type === 'ClassExpression') yield node;
  for (const [key, child] of Object.entries(node))
    if (key !== 'parent' && child && typeof child === 'object')
      for (const c of Array.isArray(child) ? child : [child]) yield* classesIn(c);
}

/** Functions called `create`: their variables live as long as the device that they make. */
function* makers(node) {
  if (!node || typeof node !== 'object') return;
  const isMaker =
    node.type === 'Property' && node.key?.name === 'create' && /Function/.test(node.value?.type ?? '');
  if (isMaker) yield node.value;
  for (const [key, child] of Object.entries(node))
    if (key !== 'parent' && child && typeof child === 'object')
      for (const c of Array.isArray(child) ? child : [child]) yield* makers(c);
}

/** What is wrong with a field, or undefined. */
const fieldFault = (f) => {
  if (!f.readonly) return 'can change';
  if (isReadonlyType(f.typeAnnotation)) return undefined;
  if (isContainer(f.value) || isMutableType(f.typeAnnotation)) return 'can be filled';
  return undefined;
};

/**
 * Undeclared state in a source file, as lines 'path:line: what'.
 * @param {string} path
 * @param {string} text
 */
export function undeclaredState(path, text) {
  const program = parseAst(text, { lang: 'ts' });
  const found = [];
  const report = (node, name, fault) => {
    if (isTransient(text, node)) return;
    const line = text.slice(0, node.start).split('\n').length;
    found.push(`${path}:${line}: ${name} ${fault}, and is lost with the process`);
  };
  const variables = (statement, where, constToo) => {
    const d = statement.type === 'ExportNamedDeclaration' ? statement.declaration : statement;
    if (d?.type !== 'VariableDeclaration') return;
    for (const v of d.declarations) {
      const name = `${where} ${v.id.name ?? 'variable'}`;
      if (d.kind !== 'const') report(statement, name, 'can change');
      else if (
        constToo &&
        !isReadonlyType(v.id.typeAnnotation) &&
        v.init?.type !== 'ArrayExpression' &&
        isContainer(v.init)
      )
        report(statement, name, 'can be filled');
    }
  };
  for (const s of program.body) variables(s, 'variable', true);
  for (const c of classesIn(program)) {
    if (isTransient(text, c)) continue;
    for (const f of c.body.body) {
      const name = `field ${c.id?.name ?? ''}.${f.key?.type === 'PrivateIdentifier' ? '#' : ''}${f.key?.name}`;
      if (f.type === 'PropertyDefinition' || f.type === 'AccessorProperty') {
        const fault = f.static && f.readonly ? undefined : fieldFault(f);
        if (fault) report(f, name, fault);
      } else if (f.kind === 'constructor')
        for (const p of f.value.params)
          if (p.type === 'TSParameterProperty' && !p.readonly)
            report(p, `field ${c.id?.name}.${p.parameter.name ?? ''}`, 'can change');
    }
  }
  for (const m of makers(program))
    if (m.body?.type === 'BlockStatement')
      for (const s of m.body.body) variables(s, 'variable of create', true);
  return found;
}
