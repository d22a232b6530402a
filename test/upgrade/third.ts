import { serve, third } from './storage-kinds.ts';

serve(third);
