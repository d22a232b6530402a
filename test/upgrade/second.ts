import { second, serve } from './storage-kinds.ts';

serve(second);
