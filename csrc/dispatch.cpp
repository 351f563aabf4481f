#include <stdexcept>
#include <string>

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

}  // namespace

const KernelTable& select_kernels(const char* wanted) {
  const std::string name = wanted;
#if defined(__x86_64__)
  if (((name == "auto" && is_bf16_faster()) || name == "avx512bf16") && has_avx512bf16()) return avx512bf16_kernels();
  if ((name == "auto" || name == "avx512vbmi") && has_avx512vbmi()) return avx512vbmi_kernels();
  if ((name == "auto" || name == "avx512") && has_avx512()) return avx512_kernels();
  if ((name == "auto" || name == "avx2") && has_avx2()) return avx2_kernels();
#endif
  if (name == "auto" || name == "portable") return portable_kernels();
  throw std::invalid_argument("this processor cannot run kernels for '" + name +
                              "'; the instruction sets are avx512bf16, avx512vbmi, avx512 (all with VNNI), avx2, portable and auto");
}

}  // namespace octavo
