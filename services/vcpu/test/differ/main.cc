// Random guests through differ.h: `soft-differ [--seconds N] [--runs N] [--seed N] [FILE ...]`. With files: those inputs alone.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "differ.h"

namespace {

using Bytes = std::vector<uint8_t>;

// Bytes of which half are opcodes that do something: noise alone soon is an instruction that is not defined.
Bytes make(std::mt19937_64& rng) {
  static constexpr uint8_t kUseful[] = {
      0x00, 0x01, 0x03, 0x08, 0x0b, 0x0f, 0x0f, 0x0f, 0x11, 0x13, 0x19, 0x21, 0x29, 0x31, 0x33, 0x39, 0x40, 0x41, 0x48, 0x49, 0x50, 0x53, 0x58, 0x5b, 0x63, 0x66,
      0x66, 0x69, 0x6b, 0x72, 0x74, 0x75, 0x78, 0x7c, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x99, 0x9c, 0x9d,
      0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xae, 0xb0, 0xb8, 0xb9, 0xc0, 0xc1, 0xc3, 0xc6, 0xc7, 0xc9, 0xcd, 0xcf, 0xd0, 0xd1, 0xd3, 0xd8, 0xd9, 0xdb, 0xdd, 0xe2, 0xe4,
      0xe8, 0xe9, 0xeb, 0xee, 0xf0, 0xf2, 0xf3, 0xf6, 0xf7, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff};
  const size_t size = 9 + rng() % 120;
  Bytes b(size);
  for (size_t k = 0; k < size; k++) {
    const uint64_t v = rng();
    b[k] = k >= 8 && v & 0x100 ? kUseful[(v >> 16) % sizeof kUseful] : uint8_t(v);
  }
  if (rng() % 8) b[1] &= 0x3f;  // seldom single step
  if (rng() % 8) b[2] &= ~12;   // seldom without SSE
  return b;
}

// True when the input is all right.
bool check(const Bytes& b, uint64_t* instructions, uint64_t* ended) {
  differ::Ran ran;
  const std::string text = differ::run(b.data(), b.size(), &ran);
  *instructions += ran.instructions;
  *ended += ran.ended;
  if (text.empty()) return true;
  std::printf("DIFFERENT: input");
  for (const uint8_t v : b) std::printf(" %02x", v);
  std::printf("\n%s", text.c_str());
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 1e9;
  uint64_t runs = ~uint64_t{0}, seed = 1, done = 0, instructions = 0, ended = 0;
  unsigned different = 0;
  std::vector<std::string> files;
  for (int k = 1; k < argc; k++) {
    const std::string a = argv[k];
    const auto value = [&] { return std::string(k + 1 < argc ? argv[++k] : "0"); };
    if (a == "--seconds") seconds = std::stod(value());
    else if (a == "--runs") runs = std::stoull(value());
    else if (a == "--seed") seed = std::stoull(value());
    else if (a[0] != '-') files.push_back(a);
    else {
      std::printf("usage: soft-differ [--seconds N] [--runs N] [--seed N] [FILE ...]\n");
      return a == "--help" ? 0 : 2;
    }
  }
  for (const std::string& name : files) {
    std::ifstream f(name, std::ios::binary);
    different += !check(Bytes(std::istreambuf_iterator<char>(f), {}), &instructions, &ended);
    done++;
  }
  if (files.empty()) {
    std::mt19937_64 rng(seed);
    const auto start = std::chrono::steady_clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
    for (; done < runs && elapsed() < seconds && different < 5; done++) different += !check(make(rng), &instructions, &ended);
  }
  std::printf("%llu guests, %llu instructions, %llu ended by themselves, %u different, seed %llu\n", (unsigned long long)done,
              (unsigned long long)instructions, (unsigned long long)ended, different, (unsigned long long)seed);
  return different != 0 || done == 0;
}
