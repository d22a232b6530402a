/**
 * The fluent face of the API:
 *
 *   const vm = await new ProductionVMBuilder().memory('4G').cpus(4).kernel('vmlinuz').disk('guest.img').withLogging('debug').build();
 *   await vm.run();                    // starts, and waits for the machine's end
 *
 * Methods of features that are not there yet throw NOT_AVAILABLE when they are called, not when the machine starts: nobody is to
 * believe that he has a TPM.
 */
import { type DiskFormat, diskFormats } from '@nyx/protocol/disk-formats';
import { NyxError } from '@nyx/protocol/errors';
import { parseSpec, type VmSpec, type VmSpecInput } from '@nyx/protocol/spec';
import { Vm } from './vm.ts';

const notYet = (feature: string): never => {
  throw new NyxError('NOT_AVAILABLE', { expected: 'a feature of this version', got: feature });
};

/** A machine that is specified and not yet started. */
export class BuiltVm {
  #vm: Vm | undefined;
  constructor(readonly spec: VmSpec) {}

  /** Starts it, once. */
  async start(): Promise<Vm> {
    if (this.#vm)
      throw new NyxError('VM_STATE', {
        expected: 'a machine that was not started',
        got: `'${this.#vm.name}' was`,
      });
    this.#vm = await Vm.start(this.spec);
    return this.#vm;
  }

  /** Starts it and waits until it has stopped. @throws NyxError when it fails */
  async run(): Promise<void> {
    const vm = await this.start();
    await vm.launched!.ended;
    vm.close();
  }
}

export class ProductionVMBuilder {
  readonly #spec: VmSpecInput = {};
  readonly #disks: NonNullable<VmSpecInput['disks']> = [];
  readonly #cdroms: NonNullable<VmSpecInput['cdroms']> = [];
  #bus: 'virtio' | 'ahci' = 'virtio';

  /** Bytes, or a size such as '4G'. */
  memory(size: number | string): this {
    this.#spec.memory = size;
    return this;
  }
  cpus(count: number): this {
    this.#spec.cpus = count;
    return this;
  }
  name(name: string): this {
    this.#spec.name = name;
    return this;
  }
  /** A guest that Nyx builds: 'debian'. */
  image(name: string): this {
    this.#spec.image = name;
    return this;
  }
  /** bzImage, or an ELF with a PVH note. */
  kernel(path: string): this {
    this.#spec.kernel = path;
    return this;
  }
  initrd(path: string): this {
    this.#spec.initrd = path;
    return this;
  }
  /** Kernel command line. */
  append(text: string): this {
    this.#spec.append = text;
    return this;
  }
  /** Firmware for a legacy boot; without an argument the host's SeaBIOS. */
  bios(path = 'seabios'): this {
    this.#spec.bios = path;
    return this;
  }
  /**
   * A disk image, a virtio-blk disk of its own process unless after `ahci()`. Several calls, several disks. Its format is what
   * its name ends in, unless said: .qcow2, .vhdx, anything else is raw.
   */
  disk(path: string, options: { readonly?: boolean; serial?: string; format?: DiskFormat } = {}): this {
    if (/\.(vhd|vmdk|nvme)$/i.test(path))
      notYet(`the disk format of ${path}; ${diskFormats.join(', ')} work`);
    const format = diskFormats.find((f) => f !== 'raw' && path.toLowerCase().endsWith(`.${f}`));
    this.#disks.push({ path, bus: this.#bus, ...(format ? { format } : {}), ...options });
    return this;
  }
  /** Disks that follow are SATA disks of an AHCI controller (`on` false: virtio again). */
  ahci(on = true): this {
    this.#bus = on ? 'ahci' : 'virtio';
    return this;
  }
  /** A CD drive at the AHCI controller, with an ISO image or empty. */
  cdrom(path?: string): this {
    this.#cdroms.push(path ?? {});
    return this;
  }
  accel(engine: 'auto' | 'kvm' | 'soft'): this {
    this.#spec.accel = engine;
    return this;
  }
  /** Level of the supervisor's log (default 'debug' when called without one). */
  withLogging(level: NonNullable<VmSpecInput['logLevel']> = 'debug'): this {
    this.#spec.logLevel = level;
    return this;
  }
  /** How device processes are restarted; the defaults are generous. */
  withErrorHandling(rules: NonNullable<VmSpecInput['recovery']> = {}): this {
    this.#spec.recovery = rules;
    return this;
  }
  /** A checkpoint in memory every so many seconds (`10`, `'10s'`, `'5m'`): what the strategy `rollback` goes back to (docs/checkpoints.md). */
  withCheckpoints(every: number | string): this {
    this.#spec.checkpoint = { ...this.#spec.checkpoint, every };
    return this;
  }
  /** Counters are always kept (`vm.metrics()`); this is here for programs that ask for them. */
  withMetrics(): this {
    return this;
  }

  /** A TPM 2.0 (docs/tpm.md); in memory unless `state` names a directory. */
  withTpm(tpm: NonNullable<VmSpecInput['tpm']> = true): this {
    this.#spec.tpm = tpm;
    return this;
  }

  uefi(_path?: string): this {
    return notYet('UEFI firmware');
  }
  nic(_model: string): this {
    return notYet('network cards');
  }
  gpu(_on = true): this {
    return notYet('a display');
  }
  withPciHotplug(): this {
    return notYet('PCI hotplug');
  }
  withLiveMigration(): this {
    return notYet('live migration');
  }
  withPerformanceTracing(): this {
    return notYet('performance tracing');
  }
  withDebugSymbols(_path: string): this {
    return notYet('debug symbols');
  }
  withIommu(): this {
    return notYet('an IOMMU');
  }
  passthroughDevice(_bdf: number, _domain: string): this {
    return notYet('device pass-through');
  }

  /** @throws NyxError SPEC_INVALID */
  build(): BuiltVm {
    return new BuiltVm(parseSpec({ ...this.#spec, disks: this.#disks, cdroms: this.#cdroms }, 'the builder'));
  }
}
