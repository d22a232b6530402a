import { serve, wrong } from './storage-kinds.ts';

serve(wrong);
