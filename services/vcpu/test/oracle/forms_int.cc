// Integer instruction forms, in the notation of the SDM.
#include "oracle.h"

namespace oracle {
namespace {

constexpr uint32_t kRmByte = kByteOp | kRm, kRmWord = kWordOp | kRm;

const Form kForms[] = {
    {"00 /r", kRmByte | kLockOk}, {"01 /r", kRmWord | kLockOk}, {"02 /r", kRmByte}, {"03 /r", kRmWord}, {"04 ib", kByteOp}, {"05 iz", kWordOp},
    {"08 /r", kRmByte | kLockOk}, {"09 /r", kRmWord | kLockOk}, {"0A /r", kRmByte}, {"0B /r", kRmWord}, {"0C ib", kByteOp}, {"0D iz", kWordOp},
    {"10 /r", kRmByte | kLockOk}, {"11 /r", kRmWord | kLockOk}, {"12 /r", kRmByte}, {"13 /r", kRmWord}, {"14 ib", kByteOp}, {"15 iz", kWordOp},
    {"18 /r", kRmByte | kLockOk}, {"19 /r", kRmWord | kLockOk}, {"1A /r", kRmByte}, {"1B /r", kRmWord}, {"1C ib", kByteOp}, {"1D iz", kWordOp},
    {"20 /r", kRmByte | kLockOk}, {"21 /r", kRmWord | kLockOk}, {"22 /r", kRmByte}, {"23 /r", kRmWord}, {"24 ib", kByteOp}, {"25 iz", kWordOp},
    {"28 /r", kRmByte | kLockOk}, {"29 /r", kRmWord | kLockOk}, {"2A /r", kRmByte}, {"2B /r", kRmWord}, {"2C ib", kByteOp}, {"2D iz", kWordOp},
    {"30 /r", kRmByte | kLockOk}, {"31 /r", kRmWord | kLockOk}, {"32 /r", kRmByte}, {"33 /r", kRmWord}, {"34 ib", kByteOp}, {"35 iz", kWordOp},
    {"38 /r", kRmByte}, {"39 /r", kRmWord}, {"3A /r", kRmByte}, {"3B /r", kRmWord}, {"3C ib", kByteOp}, {"3D iz", kWordOp},
    {"80 /0 ib", kRmByte | kLockOk}, {"80 /1 ib", kRmByte | kLockOk}, {"80 /2 ib", kRmByte | kLockOk}, {"80 /3 ib", kRmByte | kLockOk},
    {"80 /4 ib", kRmByte | kLockOk}, {"80 /5 ib", kRmByte | kLockOk}, {"80 /6 ib", kRmByte | kLockOk}, {"80 /7 ib", kRmByte},
    {"81 /0 iz", kRmWord | kLockOk}, {"81 /1 iz", kRmWord | kLockOk}, {"81 /2 iz", kRmWord | kLockOk}, {"81 /3 iz", kRmWord | kLockOk},
    {"81 /4 iz", kRmWord | kLockOk}, {"81 /5 iz", kRmWord | kLockOk}, {"81 /6 iz", kRmWord | kLockOk}, {"81 /7 iz", kRmWord},
    {"82 /5 ib", kRmByte | kLockOk}, {"83 /0 ib", kRmWord | kLockOk}, {"83 /1 ib", kRmWord | kLockOk}, {"83 /2 ib", kRmWord | kLockOk},
    {"83 /3 ib", kRmWord | kLockOk}, {"83 /4 ib", kRmWord | kLockOk}, {"83 /5 ib", kRmWord | kLockOk}, {"83 /6 ib", kRmWord | kLockOk},
    {"83 /7 ib", kRmWord}, {"84 /r", kRmByte}, {"85 /r", kRmWord}, {"A8 ib", kByteOp}, {"A9 iz", kWordOp},
    {"F6 /0 ib", kRmByte}, {"F6 /1 ib", kRmByte}, {"F7 /0 iz", kRmWord}, {"F7 /1 iz", kRmWord},
    {"F6 /2", kRmByte | kLockOk}, {"F7 /2", kRmWord | kLockOk}, {"F6 /3", kRmByte | kLockOk}, {"F7 /3", kRmWord | kLockOk},
    {"FE /0", kRmByte | kLockOk}, {"FF /0", kRmWord | kLockOk}, {"FE /1", kRmByte | kLockOk}, {"FF /1", kRmWord | kLockOk},
    {"40 +r", kWordOp | kNot64}, {"48 +r", kWordOp | kNot64},
    // Shifts.
    {"C0 /0 ib", kRmByte}, {"C0 /1 ib", kRmByte}, {"C0 /2 ib", kRmByte}, {"C0 /3 ib", kRmByte}, {"C0 /4 ib", kRmByte}, {"C0 /5 ib", kRmByte},
    {"C0 /6 ib", kRmByte}, {"C0 /7 ib", kRmByte}, {"C1 /0 ib", kRmWord}, {"C1 /1 ib", kRmWord}, {"C1 /2 ib", kRmWord}, {"C1 /3 ib", kRmWord},
    {"C1 /4 ib", kRmWord}, {"C1 /5 ib", kRmWord}, {"C1 /6 ib", kRmWord}, {"C1 /7 ib", kRmWord}, {"D0 /0", kRmByte}, {"D0 /1", kRmByte},
    {"D0 /2", kRmByte}, {"D0 /3", kRmByte}, {"D0 /4", kRmByte}, {"D0 /5", kRmByte}, {"D0 /6", kRmByte}, {"D0 /7", kRmByte}, {"D1 /0", kRmWord},
    {"D1 /1", kRmWord}, {"D1 /2", kRmWord}, {"D1 /3", kRmWord}, {"D1 /4", kRmWord}, {"D1 /5", kRmWord}, {"D1 /6", kRmWord}, {"D1 /7", kRmWord},
    {"D2 /0", kRmByte}, {"D2 /1", kRmByte}, {"D2 /2", kRmByte}, {"D2 /3", kRmByte}, {"D2 /4", kRmByte}, {"D2 /5", kRmByte}, {"D2 /6", kRmByte},
    {"D2 /7", kRmByte}, {"D3 /0", kRmWord}, {"D3 /1", kRmWord}, {"D3 /2", kRmWord}, {"D3 /3", kRmWord}, {"D3 /4", kRmWord}, {"D3 /5", kRmWord},
    {"D3 /6", kRmWord}, {"D3 /7", kRmWord},
    {"0F A4 /r ib", kRmWord}, {"0F A5 /r", kRmWord}, {"0F AC /r ib", kRmWord}, {"0F AD /r", kRmWord},
    // Multiplication, division, decimal.
    {"F6 /4", kRmByte}, {"F7 /4", kRmWord}, {"F6 /5", kRmByte}, {"F7 /5", kRmWord}, {"0F AF /r", kRmWord}, {"69 /r iz", kRmWord},
    {"6B /r ib", kRmWord}, {"F6 /6", kRmByte | kDivide}, {"F7 /6", kRmWord | kDivide}, {"F6 /7", kRmByte | kDivide}, {"F7 /7", kRmWord | kDivide},
    {"98", kWordOp}, {"99", kWordOp}, {"27", kNot64}, {"2F", kNot64}, {"37", kNot64}, {"3F", kNot64}, {"D4 ib", kNot64}, {"D5 ib", kNot64},
    // Moves.
    {"88 /r", kRmByte}, {"89 /r", kRmWord}, {"8A /r", kRmByte}, {"8B /r", kRmWord}, {"A0 moffs", kByteOp}, {"A1 moffs", kWordOp},
    {"A2 moffs", kByteOp}, {"A3 moffs", kWordOp}, {"B0 +r ib", kByteOp}, {"B8 +r iv", kWordOp}, {"C6 /0 ib", kRmByte}, {"C7 /0 iz", kRmWord},
    {"0F B6 /r", kRmWord}, {"0F B7 /r", kRmWord}, {"0F BE /r", kRmWord}, {"0F BF /r", kRmWord}, 
    // With 66 the memory operand has 16 bits (Intel) or 32 (AMD).
    {"63 /r", kRmWord | kOnly64 | kNoOpSize},
    {"8D /r", kWordOp | kMemory}, {"0F C8 +r", kWordOp}, {"0F 38 F0 /r", kWordOp | kMemory}, {"0F 38 F1 /r", kWordOp | kMemory},
    {"0F C3 /r", kMemory}, {"D7", kTable}, {"9E", 0}, {"9F", 0}, {"D6", kNot64}, {"F5", 0}, {"F8", 0}, {"F9", 0}, {"FC", 0}, {"FD", 0},
    {"90", 0}, {"0F 1F /0", kRmWord}, {"0F 0D /1", kMemory}, {"0F 18 /1", kMemory}, {"F3 0F 1E FA", 0}, {"0F AE E8", 0}, {"0F AE F0", 0},
    {"0F AE F8", 0}, {"0F AE /7", kMemory}, {"0F 0B", kUndefined}, {"0F B9 /r", kRm | kUndefined}, {"0F FF /r", kRm | kUndefined},
    {"0F 40 /r", kRmWord}, {"0F 41 /r", kRmWord}, {"0F 42 /r", kRmWord}, {"0F 43 /r", kRmWord}, {"0F 44 /r", kRmWord}, {"0F 45 /r", kRmWord},
    {"0F 46 /r", kRmWord}, {"0F 47 /r", kRmWord}, {"0F 48 /r", kRmWord}, {"0F 49 /r", kRmWord}, {"0F 4A /r", kRmWord}, {"0F 4B /r", kRmWord},
    {"0F 4C /r", kRmWord}, {"0F 4D /r", kRmWord}, {"0F 4E /r", kRmWord}, {"0F 4F /r", kRmWord},
    {"0F 90 /0", kRmByte}, {"0F 91 /0", kRmByte}, {"0F 92 /0", kRmByte}, {"0F 93 /0", kRmByte}, {"0F 94 /0", kRmByte}, {"0F 95 /0", kRmByte},
    {"0F 96 /0", kRmByte}, {"0F 97 /0", kRmByte}, {"0F 98 /0", kRmByte}, {"0F 99 /0", kRmByte}, {"0F 9A /0", kRmByte}, {"0F 9B /0", kRmByte},
    {"0F 9C /0", kRmByte}, {"0F 9D /0", kRmByte}, {"0F 9E /0", kRmByte}, {"0F 9F /0", kRmByte},
    // Bits.
    {"0F A3 /r", kRmWord | kBitString}, {"0F AB /r", kRmWord | kBitString | kLockOk}, {"0F B3 /r", kRmWord | kBitString | kLockOk},
    {"0F BB /r", kRmWord | kBitString | kLockOk}, {"0F BA /4 ib", kRmWord}, {"0F BA /5 ib", kRmWord | kLockOk}, {"0F BA /6 ib", kRmWord | kLockOk},
    {"0F BA /7 ib", kRmWord | kLockOk}, {"0F BC /r", kRmWord}, {"0F BD /r", kRmWord}, {"F3 0F B8 /r", kRmWord},
    {"F2 0F 38 F0 /r", kRmByte | kNoOpSize}, {"F2 0F 38 F1 /r", kRmWord},
    // Exchange.
    {"86 /r", kRmByte | kLockOk}, {"87 /r", kRmWord | kLockOk}, {"90 +r", kWordOp}, {"0F B0 /r", kRmByte | kLockOk}, {"0F B1 /r", kRmWord | kLockOk},
    {"0F C0 /r", kRmByte | kLockOk}, {"0F C1 /r", kRmWord | kLockOk}, {"0F C7 /1", kWordOp | kMemory | kLockOk | kAlign16},
    // Stack.
    {"50 +r", kWordOp | kStack}, {"58 +r", kWordOp | kStack}, {"68 iz", kWordOp | kStack}, {"6A ib", kWordOp | kStack}, {"FF /6", kRmWord | kStack},
    {"8F /0", kRmWord | kStack}, {"60", kWordOp | kStack | kNot64}, {"61", kWordOp | kStack | kNot64 | kPartial}, {"C8 frame ib", kWordOp | kStack},
    {"C9", kWordOp | kStack},
    // Near branches. Prefixes without a documented meaning are not tried: Intel ignores 66 in 64-bit mode and AMD does not;
    // F3 makes LOOPNE a LOOPE on AMD.
    {"70 rel8", kBranch}, {"71 rel8", kBranch}, {"72 rel8", kBranch}, {"73 rel8", kBranch}, {"74 rel8", kBranch}, {"75 rel8", kBranch},
    {"76 rel8", kBranch}, {"77 rel8", kBranch}, {"78 rel8", kBranch}, {"79 rel8", kBranch}, {"7A rel8", kBranch}, {"7B rel8", kBranch},
    {"7C rel8", kBranch}, {"7D rel8", kBranch}, {"7E rel8", kBranch}, {"7F rel8", kBranch}, {"0F 80 relz", kBranch}, {"0F 82 relz", kBranch},
    {"0F 84 relz", kBranch}, {"0F 85 relz", kBranch}, {"0F 87 relz", kBranch}, {"0F 88 relz", kBranch}, {"0F 8C relz", kBranch},
    {"0F 8F relz", kBranch}, {"E0 rel8", kBranch}, {"E1 rel8", kBranch}, {"E2 rel8", kBranch}, {"E3 rel8", kBranch}, {"EB rel8", kBranch},
    {"E9 relz", kBranch}, {"E8 relz", kBranch | kStack}, {"C3", kBranch | kStack}, {"C2 iw", kBranch | kStack}, {"FF /4", kRm | kBranch},
    {"FF /2", kRm | kBranch | kStack},
    // Strings.
    {"A4", kByteOp | kRepeat}, {"A5", kWordOp | kRepeat}, {"A6", kByteOp | kRepeat}, {"A7", kWordOp | kRepeat}, {"AA", kByteOp | kRepeat},
    {"AB", kWordOp | kRepeat}, {"AC", kByteOp | kRepeat}, {"AD", kWordOp | kRepeat}, {"AE", kByteOp | kRepeat}, {"AF", kWordOp | kRepeat},
};

}  // namespace

std::vector<Form> integer_forms() { return {std::begin(kForms), std::end(kForms)}; }

}  // namespace oracle
