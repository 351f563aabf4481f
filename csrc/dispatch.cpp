#include <stdexcept>
#include <string>

#if defined(OCTAVO_HAS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"

namespace octavo {
namespace {

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx512vbmi() { return has_avx512() && __builtin_cpu_supports("avx512vbmi"); }
bool has_avx512bf16() { return has_avx512vbmi() && __builtin_cpu_supports("avx512bf16"); }
// AMD's dot product of bfloat16 does twice the work of a multiply-add, Intel's no more than two of those, which keep the
// activations exact.
bool is_bf16_faster() { return __builtin_cpu_is("amd"); }
#endif

#if defined(OCTAVO_HAS_AMX)
// Leaf 7 of cpuid, edx.
constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24, AMX_INT8 = 1u << 25;

// Linux keeps a thread's tiles where a process has asked for it. It refuses where it cannot.
bool may_use_tiles() {
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
bool find_amx() {
  unsigned eax, ebx, ecx, edx;
  if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned wanted = AMX_BF16 | AMX_TILE | AMX_INT8;
  return (edx & wanted) == wanted && may_use_tiles();
}
bool has_amx() {
  static const bool found = find_amx();
  return found;
}
#endif

}  // namespace

const KernelTable& select_kernels(const char* wanted) {
  const std::string name = wanted;
#if defined(OCTAVO_EMULATION)
  // Functions of AVX2 (isa/emulation): by name, on any processor.
  if (name == "amx") return amx_kernels();
  if (name == "avx512bf16") return avx512bf16_kernels();
  if (name == "avx512vbmi") return avx512vbmi_kernels();
  if (name == "avx512") return avx512_kernels();
#endif
#if defined(OCTAVO_HAS_AMX)
  if ((name == "auto" || name == "amx") && has_amx()) return amx_kernels();
#endif
#if defined(__x86_64__)
  if (((name == "auto" && is_bf16_faster()) || name == "avx512bf16") && has_avx512bf16()) return avx512bf16_kernels();
  if ((name == "auto" || name == "avx512vbmi") && has_avx512vbmi()) return avx512vbmi_kernels();
  if ((name == "auto" || name == "avx512") && has_avx512()) return avx512_kernels();
  if ((name == "auto" || name == "avx2") && has_avx2()) return avx2_kernels();
#endif
  if (name == "auto" || name == "portable") return portable_kernels();
  throw std::invalid_argument("this processor cannot run kernels for '" + name +
                              "'; the instruction sets are amx, avx512bf16, avx512vbmi, avx512 (all with VNNI), avx2, portable and auto");
}

}  // namespace octavo
