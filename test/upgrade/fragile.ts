import { fragile, serve } from './storage-kinds.ts';

serve(fragile);
