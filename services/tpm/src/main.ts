/** `tpm serve`: a TPM on sockets. */
import { serveCli } from './server/cli.ts';

serveCli(process.argv.slice(2));
