import { createSpinPolicy } from '@nyx/native';
import { expect, test } from 'vitest';

const MAX = 50_000;

test('while gaps are short it spins as long as a sleep would cost, not as long as the gaps', () => {
  const policy = createSpinPolicy(MAX);
  for (let i = 0; i < 100; i++) policy.arrived(300, false);
  expect(policy.next()).toBe(MAX);
});

test('spinning that does not pay stops', () => {
  const policy = createSpinPolicy(MAX);
  for (let i = 0; i < 8; i++) policy.arrived(10_000_000, true);
  expect(policy.next()).toBe(0);
});

test('it begins again when work comes sooner than a wake-up takes', () => {
  const policy = createSpinPolicy(MAX);
  for (let i = 0; i < 8; i++) policy.arrived(10_000_000, true);
  policy.arrived(30_000, true); // 25 us of that was the wake-up
  expect(policy.next()).toBeGreaterThan(5000);
});

test('it never spins longer than the maximum, and not at all with a maximum of 0', () => {
  const policy = createSpinPolicy(MAX);
  for (let i = 0; i < 100; i++) policy.arrived(49_000, false);
  expect(policy.next()).toBe(MAX);
  const never = createSpinPolicy(0);
  for (let i = 0; i < 10; i++) never.arrived(1, false);
  expect(never.next()).toBe(0);
});
