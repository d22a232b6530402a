{
  "target_defaults": {
    "defines": ["_GNU_SOURCE"],
    "include_dirs": ["src", "../../libs/native/src/cc", "src/gen"],
    "cflags": ["-Wall", "-Wextra", "-Werror", "-g1", "-fno-strict-aliasing", "-pthread"],
    # -O3 comes from node-gyp's Release; frame pointers only cost there.
    "cflags!": ["-fno-omit-frame-pointer"],
    # -Wno-restrict: g++ 12 warns falsely of "text" + std::to_string (GCC bug 105651).
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
    "cflags_cc": ["-std=c++20", "-Wno-restrict", "-fno-exceptions"],
    "ldflags": ["-pthread"]
  },
  "targets": [
    {
      "target_name": "machine",
      "type": "static_library",
      "sources": ["<!@(node list-sources.mjs src src/kvm)"]
    },
    {
      "target_name": "soft",
      "type": "static_library",
      "sources": ["<!@(node list-sources.mjs src/soft)"],
      "cflags": ["-fno-rtti"]
    },
    {
      "target_name": "nyx-vcpu",
      "type": "executable",
      "dependencies": ["machine", "soft"],
      "sources": ["src/main.cc"]
    },
    {
      "target_name": "vcpu-tests",
      "type": "executable",
      "dependencies": ["machine", "soft"],
      "sources": ["<!@(node list-sources.mjs test/cc)"]
    },
    {
      # The soft CPU alone with a board of a few registers: guests for tests, firmware and kernels for profiles.
      "target_name": "soft-run",
      "type": "executable",
      "dependencies": ["soft", "machine"],
      "sources": ["test/soft_run.cc"]
    },
    {
      # Random bytes as guests, interpreted and translated.
      "target_name": "soft-differ",
      "type": "executable",
      "dependencies": ["soft", "machine"],
      "include_dirs": ["test/differ"],
      "sources": ["<!@(node list-sources.mjs test/differ)"]
    },
    {
      # Random instructions on the host CPU and on the soft one. flat.cc stands in for mmu.cc and the system half, whose
      # members of the archive are therefore not linked.
      "target_name": "soft-oracle",
      "type": "executable",
      "dependencies": ["soft"],
      "include_dirs": ["test/oracle"],
      "sources": ["<!@(node list-sources.mjs test/oracle)"]
    }
  ]
}
