/** A TPM: as a device process (no arguments), or on sockets (`serve`). Its second thread runs this file as well. */
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';

if (!isMainThread) void import('./device/worker.ts');
else if (process.argv.length > 2)
  void import('./server/cli.ts').then((m) => m.serveCli(process.argv.slice(2)));
else void import('./device/process.ts').then((m) => m.serve(fileURLToPath(import.meta.url)));
