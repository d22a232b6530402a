/** The class table of a device, derived from its register tables (ARCHITECTURE.md, "Exit classes"). */
import { ClassKind, type ClassSpec, Counter } from '@nyx/ring';
import type { DeviceKind } from './device.ts';

/**
 * A shadow register reads the field of the same name and width in the state; a counter the `Counter` of that name.
 * @throws Error on a mistake in the tables.
 */
export function classesOf(kind: Pick<DeviceKind, 'kind' | 'regions' | 'state'>): ClassSpec[] {
  const list: ClassSpec[] = [];
  kind.regions.forEach((r, region) => {
    for (const reg of r.table?.registers ?? []) {
      const at = { region, width: reg.width, offset: reg.at };
      if (reg.read === 'shadow' || reg.read === 'counter') {
        const field = kind.state.placed.find((p) => p.name === reg.name);
        const fits =
          field !== undefined &&
          (reg.read === 'shadow'
            ? field.field.kind === 'scalar' && field.bytes === reg.width
            : field.field.kind === 'struct' && field.field.struct === Counter);
        if (!fits)
          throw new Error(
            `${kind.kind}.${reg.name}: class ${reg.read} needs a ${reg.read === 'shadow' ? `field of ${reg.width} bytes` : 'Counter'} of that name in the state`,
          );
        list.push({ ...at, kind: ClassKind[reg.read], source: field.offset, mask: (reg.ones ?? 0) >>> 0 });
      }
      if (reg.write === 'posted') list.push({ ...at, kind: ClassKind.posted });
      if (reg.write === 'notify') list.push({ ...at, kind: ClassKind.notify });
    }
  });
  return list;
}
