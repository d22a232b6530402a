{
  "targets": [
    {
      "target_name": "nyx_native",
      "sources": [
        "src/cc/addon.cc",
        "src/cc/call.cc",
        "src/cc/death.cc",
        "src/cc/events.cc",
        "src/cc/exit_core.cc",
        "src/cc/exit_rings.cc",
        "src/cc/files.cc",
        "src/cc/io_inline.cc",
        "src/cc/io_queue.cc",
        "src/cc/io_threads.cc",
        "src/cc/io_uring.cc",
        "src/cc/jail.cc",
        "src/cc/loop.cc",
        "src/cc/mapped_file.cc",
        "src/cc/memory.cc",
        "src/cc/page_saver.cc",
        "src/cc/process.cc",
        "src/cc/rights.cc",
        "src/cc/ring_driver.cc",
        "src/cc/seq_socket.cc",
        "src/cc/spawn.cc",
        "src/cc/test_producer.cc"
      ],
      "include_dirs": ["../../services/vcpu/src/gen", "<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NAPI_DISABLE_CPP_EXCEPTIONS", "_GNU_SOURCE"],
      "cflags": ["-Wall", "-Wextra", "-Werror", "-O2", "-fno-strict-aliasing"],
      # -Wno-restrict: g++ 12 warns falsely of "text" + std::to_string (GCC bug 105651).
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-msse4.2", "-Wno-restrict", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"]
    },
    {
      # Started before a device process, in its place: makes its namespaces a jail, then becomes the program.
      "target_name": "nyx-jail",
      "type": "executable",
      "sources": ["src/jail/main.cc", "src/jail/root.cc"],
      "include_dirs": ["src/cc"],
      "defines": ["_GNU_SOURCE"],
      "cflags": ["-Wall", "-Wextra", "-Werror", "-O2"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-fno-exceptions", "-fno-rtti"],
      "ldflags": ["-static"]
    },
    {
      # Holds a supervisor's descriptors, and starts another one when it dies.
      "target_name": "nyx-keeper",
      "type": "executable",
      "sources": ["src/keeper/main.cc"],
      "include_dirs": ["src/cc"],
      "defines": ["_GNU_SOURCE"],
      "cflags": ["-Wall", "-Wextra", "-Werror", "-O2"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-fno-exceptions", "-fno-rtti"],
      "ldflags": ["-static"]
    }
  ]
}
