/** Keys of node:crypto for loaded RSA objects, made once for each. */
import type { KeyObject } from 'node:crypto';
import { defaultExponent, privateKeyOf, publicKeyOf } from '../crypto/rsa.ts';
import type { LoadedObject } from './state.ts';

const privates = new WeakMap<LoadedObject, KeyObject>();
const publics = new WeakMap<LoadedObject, KeyObject>();

export const exponentOf = (o: LoadedObject): number => o.pub.parameters.exponent || defaultExponent;

/** The object must have its sensitive area. */
export function rsaPrivate(o: LoadedObject): KeyObject {
  let k = privates.get(o);
  if (!k) {
    k = privateKeyOf({ n: o.pub.unique.x, p: o.sensitive!.sensitive }, exponentOf(o));
    privates.set(o, k);
  }
  return k;
}
export function rsaPublic(o: LoadedObject): KeyObject {
  let k = publics.get(o);
  if (!k) {
    k = publicKeyOf(o.pub.unique.x, exponentOf(o));
    publics.set(o, k);
  }
  return k;
}
