/** Nyx as a library: a guest, a command in it, the death of its disk's process. Run it with tsx. */
import { ProductionVMBuilder } from '@nyx/nyx';

const vm = await new ProductionVMBuilder().image('debian').memory('512M').cpus(2).build().start();
const { status, stdout } = await vm.exec('uname -r');
console.log(`status ${status}: Linux ${stdout.toString().trim()}`);

await vm.kill('disk0'); // its successor continues; the guest does not notice
const after = await vm.exec('dd if=/dev/vda of=/dev/null bs=1M count=8');
console.log(`the disk after its process was killed: status ${after.status}`);
await vm.stop();
