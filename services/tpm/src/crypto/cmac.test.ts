import { expect, test } from 'vitest';
import { ALG } from '../spec/constants.ts';
import { finishCmac, startCmac, updateCmac } from './cmac.ts';

/** SP 800-38B, D.1 and D.3. */
const message = Buffer.from(
  '6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710',
  'hex',
);
const keys = {
  128: '2b7e151628aed2a6abf7158809cf4f3c',
  256: '603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4',
};
test.each([
  [128, 0, 'bb1d6929e95937287fa37d129b756746'],
  [128, 16, '070a16b46b4d4144f79bdd9dd04a287c'],
  [128, 40, 'dfa66747de9ae63030ca32611497c827'],
  [128, 64, '51f0bebf7e3b9d92fc49741779363cfe'],
  [256, 0, '028962f61b7bf89efc6b551f4667d983'],
  [256, 40, 'aaf3d8f1de5640c232f5b169b9c911e6'],
] as const)('AES-%d, %d octets, cut anywhere', (bits, length, mac) => {
  for (const step of [1, 5, 16, 17, 64]) {
    const s = startCmac(ALG.AES, bits, Buffer.from(keys[bits], 'hex'));
    for (let at = 0; at < length; at += step)
      updateCmac(s, message.subarray(at, Math.min(length, at + step)));
    expect(finishCmac(s).toString('hex')).toBe(mac);
  }
});
