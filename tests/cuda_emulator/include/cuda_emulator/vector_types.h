#pragma once
// CUDA's vector types, with its alignment.

#define OLM_EMULATED_VECTORS(name, scalar)                                             \
  struct name##1 {                                                                     \
    scalar x;                                                                          \
  };                                                                                   \
  struct alignas(2 * sizeof(scalar)) name##2 {                                         \
    scalar x, y;                                                                       \
  };                                                                                   \
  struct name##3 {                                                                     \
    scalar x, y, z;                                                                    \
  };                                                                                   \
  struct alignas(sizeof(scalar) < 8 ? 4 * sizeof(scalar) : 16) name##4 {               \
    scalar x, y, z, w;                                                                 \
  };                                                                                   \
  constexpr name##1 make_##name##1(scalar x) { return {x}; }                           \
  constexpr name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }              \
  constexpr name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; } \
  constexpr name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

OLM_EMULATED_VECTORS(char, signed char)
OLM_EMULATED_VECTORS(uchar, unsigned char)
OLM_EMULATED_VECTORS(short, short)
OLM_EMULATED_VECTORS(ushort, unsigned short)
OLM_EMULATED_VECTORS(int, int)
OLM_EMULATED_VECTORS(uint, unsigned)
OLM_EMULATED_VECTORS(long, long)
OLM_EMULATED_VECTORS(ulong, unsigned long)
OLM_EMULATED_VECTORS(longlong, long long)
OLM_EMULATED_VECTORS(ulonglong, unsigned long long)
OLM_EMULATED_VECTORS(float, float)
OLM_EMULATED_VECTORS(double, double)
#undef OLM_EMULATED_VECTORS

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
