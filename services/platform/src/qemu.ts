export * from '@nyx/device/qtest';
