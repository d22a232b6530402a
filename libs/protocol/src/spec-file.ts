/** The machine file: YAML (docs/machine-file.md). Apart from the schema, because most machines need no YAML. */
import { parse, YAMLParseError } from 'yaml';
import { NyxError } from './errors.ts';
import { parseSpec, type VmSpec } from './spec.ts';

/** @throws NyxError SPEC_SYNTAX */
export const parseYaml = (text: string, from: string): unknown => {
  try {
    return parse(text);
  } catch (e) {
    if (e instanceof YAMLParseError)
      throw new NyxError('SPEC_SYNTAX', { got: `${from}: ${e.message.split('\n')[0]}` });
    throw e;
  }
};

/** @throws NyxError SPEC_SYNTAX, and as parseSpec. */
export const parseSpecText = (text: string, from: string): VmSpec => parseSpec(parseYaml(text, from), from);
