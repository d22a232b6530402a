/** TPM2_StartAuthSession (part 3, 11.1; part 1, 19.6). */

import type { Handlers } from '../core/dispatch.ts';
import { authValue, boundEntity, daExempt, isPublicOnly, objectOf } from '../core/entity.ts';
import { isPin } from '../core/nv.ts';
import { recoverSecret } from '../core/secret.ts';
import { createSession } from '../core/session.ts';
import { kdfa } from '../crypto/hash.ts';
import { digestSize } from '../spec/algorithms.ts';
import { ALG, HT, OA, RC, RH, SE } from '../spec/constants.ts';
import { asHandle, asParam, badHandle, badParam, refuse } from '../spec/refusal.ts';
import { handleType } from '../spec/types.ts';

export const sessionCommands: Handlers = {
  StartAuthSession(tpm, { tpmKey, bind, nonceCaller, encryptedSalt, sessionType, symmetric, authHash }) {
    let salt = Buffer.alloc(0);
    if (nonceCaller.length < 16 || nonceCaller.length > digestSize(authHash)) badParam(RC.SIZE, 1);
    if (tpmKey !== RH.NULL) {
      const key = asHandle(1, () => objectOf(tpm, tpmKey));
      if (key.pub.type !== ALG.RSA && key.pub.type !== ALG.ECC) badHandle(RC.KEY, 1);
      if (encryptedSalt.length === 0) badParam(RC.VALUE, 2);
      if (isPublicOnly(key)) badHandle(RC.HANDLE, 1);
      if (!(key.pub.objectAttributes & OA.decrypt)) badHandle(RC.ATTRIBUTES, 1);
      salt = Buffer.from(asParam(2, () => recoverSecret(key, 'SECRET', encryptedSalt, nonceCaller)));
    } else if (encryptedSalt.length !== 0) badParam(RC.VALUE, 2);
    // An authValue that nobody can use binds nothing.
    if (handleType(bind) === HT.TRANSIENT || handleType(bind) === HT.PERSISTENT) {
      asHandle(2, () => {
        if (isPublicOnly(objectOf(tpm, bind))) refuse(RC.HANDLE);
      });
    }
    // Its count would change with the session.
    if (handleType(bind) === HT.NV_INDEX && isPin(tpm.nv.get(bind)!.pub.attributes)) badHandle(RC.HANDLE, 2);
    if (symmetric.algorithm !== ALG.NULL && symmetric.algorithm !== ALG.XOR && symmetric.mode !== ALG.CFB) {
      badParam(RC.MODE, 4);
    }
    const s = createSession(tpm, sessionType, authHash, symmetric, nonceCaller.length);
    if (bind !== RH.NULL && sessionType === SE.HMAC) {
      s.isBound = 1;
      s.boundEntity = boundEntity(tpm, bind);
      s.isDaBound = daExempt(tpm, bind) ? 0 : 1;
      s.isLockoutBound = bind === RH.LOCKOUT ? 1 : 0;
    }
    if (bind !== RH.NULL || tpmKey !== RH.NULL) {
      const key = Buffer.concat([bind === RH.NULL ? Buffer.alloc(0) : authValue(tpm, bind), salt]);
      s.sessionKey = kdfa(authHash, key, 'ATH', s.nonceTPM, nonceCaller, digestSize(authHash) * 8);
    }
    return { handle: s.handle, nonceTPM: s.nonceTPM };
  },
};
