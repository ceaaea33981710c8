// The attention kernel by itself, under a sanitizer: odd shapes, buffers of exactly the size that belongs to them, several threads, against
// the same sums in double. Prints the greatest error of all cases; exits 1 if one is too great or a row depends on its neighbours.
#include "attention.h"

#include <cstdio>
#include <random>
#include <thread>

using namespace attention;

namespace {

struct Case {
  Kind kind;
  int64_t T, H, G, C, S, block;  // block 0: no block table
  int64_t window;
  int n_scales;
  bool half;
};

template <typename T>
struct Exact {  // a block of its own for each buffer, so that one step beyond it is seen
  std::unique_ptr<T[]> data;
  explicit Exact(int64_t n) : data(new T[n]()) {}
  T* get() { return data.get(); }
};

const auto threads = [](int64_t n, const auto& run) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i; (i = next++) < n;) run(i);
  };
  std::thread one(work), two(work);
  one.join();
  two.join();
};
const auto alone = [](int64_t n, const auto& run) {
  for (int64_t i = n; i-- > 0;) run(i);
};

double exact(const Problem& p, int64_t b, int64_t t, int64_t h, int64_t c) {
  const Range seen = seen_by(p, b, t);
  const int64_t g = h / (p.H / p.G);
  std::vector<float> q(p.q + ((b * p.T + t) * p.H + h) * p.C, p.q + ((b * p.T + t) * p.H + h + 1) * p.C), row(p.C);
  if (p.rotated) rotate(q.data(), p.C);
  double top = -1e300, sum = 0, o = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t s = seen.first; s < seen.end; ++s) {
      widen(p.k, place(p, b, g, s), p.C, row.data());
      double score = 0;
      for (int64_t i = 0; i < p.C; ++i) score += double(q[i]) * row[i] * p.scale;
      if (p.softcap > 0) score = p.softcap * std::tanh(score / p.softcap);
      if (pass == 0) {
        top = std::max(top, score);
      } else {
        widen(p.v, place(p, b, g, s), p.C, row.data());
        sum += std::exp(score - top);
        o += std::exp(score - top) * row[c];
      }
    }
  }
  return sum > 0 ? o / sum : 0;
}

double run(const Case& a) {
  std::mt19937 rng(static_cast<unsigned>(a.C * 1000 + a.S));
  std::normal_distribution<float> normal;
  const int64_t B = 3, n_blocks = a.block ? (a.S + a.block - 1) / a.block : 0, pool = a.block ? B * n_blocks + 2 : B;
  const int64_t rows = pool * a.G * (a.block ? a.block : a.S), groups = (a.C + 31) / 32;
  const int64_t row_bytes = a.kind == Kind::float32 ? a.C * 4 : a.kind == Kind::bfloat16 ? a.C * 2 : a.kind == Kind::int8 ? a.C : groups * 16;
  Exact<uint8_t> data[2] = {Exact<uint8_t>(rows * row_bytes), Exact<uint8_t>(rows * row_bytes)};
  Exact<uint16_t> halves[2] = {Exact<uint16_t>(rows * a.n_scales), Exact<uint16_t>(rows * a.n_scales)};
  Exact<float> singles[2] = {Exact<float>(rows * a.n_scales), Exact<float>(rows * a.n_scales)};
  Problem p = {};
  p.B = B, p.T = p.all = a.T, p.H = a.H, p.G = a.G, p.C = a.C, p.window = a.window, p.scale = 1 / std::sqrt(float(a.C));
  p.rotated = a.kind == Kind::int4;
  p.block = a.block ? a.block : a.S, p.n_blocks = n_blocks, p.pool = pool, p.S = a.block ? n_blocks * a.block : a.S;
  for (int i = 0; i < 2; ++i) {
    for (int64_t j = 0; j < rows * row_bytes; ++j) data[i].get()[j] = uint8_t(rng());
    if (a.kind == Kind::float32) {
      for (int64_t j = 0; j < rows * a.C; ++j) reinterpret_cast<float*>(data[i].get())[j] = normal(rng);
    } else if (a.kind == Kind::bfloat16) {
      for (int64_t j = 0; j < rows * a.C; ++j) reinterpret_cast<uint16_t*>(data[i].get())[j] = uint16_t(0x3f00 + rng() % 256 + (rng() % 2 << 15));
    } else {
      for (int64_t j = 0; j < rows * a.n_scales; ++j) {
        singles[i].get()[j] = (1 + rng() % 4) * 0.25f / (a.kind == Kind::int8 ? 127 : 8);
        halves[i].get()[j] = uint16_t((a.kind == Kind::int8 ? 0x1c00 : 0x2c00) + rng() % 1024);
      }
    }
    Store& store = i == 0 ? p.k : p.v;
    store = {a.kind, data[i].get(), row_bytes, nullptr, a.half, a.n_scales};
    store.scales = a.half ? static_cast<const void*>(halves[i].get()) : singles[i].get();
  }
  Exact<float> q(B * a.T * a.H * a.C), out(B * a.T * a.H * a.C), again(B * a.T * a.H * a.C);
  Exact<int32_t> lengths(B), table(B * n_blocks);
  p.softcap = a.window ? 3 : 0;
  for (int64_t i = 0; i < B * a.T * a.H * a.C; ++i) q.get()[i] = normal(rng);
  lengths.get()[0] = int32_t(p.S), lengths.get()[1] = int32_t(a.S / 2), lengths.get()[2] = 0;
  for (int64_t i = 0; i < B * n_blocks; ++i) table.get()[i] = int32_t((i * 7 + 1) % pool);
  p.q = q.get(), p.lengths = lengths.get(), p.table = a.block ? table.get() : nullptr;
  p.out = out.get();
  attend(p, 3, threads);
  p.out = again.get();
  attend(p, 1, alone);  // one thread, backwards
  double wrong = 0, all = 1e-30;
  for (int64_t i = 0; i < B * a.T * a.H * a.C; ++i) {
    const double want = exact(p, i / (a.T * a.H * a.C), i / (a.H * a.C) % a.T, i / a.C % a.H, i % a.C);
    wrong += (out.get()[i] - want) * (out.get()[i] - want), all += want * want;
    if (std::memcmp(out.get() + i, again.get() + i, sizeof(float)) != 0) return 1e9;
  }
  return wrong / all;
}

}  // namespace

int main() {
  const Case cases[] = {
      {Kind::float32, 1, 4, 2, 64, 130, 0, 0, 0, true},  {Kind::float32, 5, 7, 1, 6, 67, 0, 9, 0, true},   {Kind::float32, 3, 2, 2, 33, 2100, 16, 0, 0, true},
      {Kind::bfloat16, 2, 4, 4, 80, 65, 0, 0, 0, true},  {Kind::bfloat16, 1, 6, 2, 1, 1, 0, 0, 0, true},   {Kind::int8, 1, 8, 2, 64, 2093, 0, 0, 1, true},
      {Kind::int8, 4, 7, 1, 80, 129, 0, 50, 1, false},   {Kind::int8, 3, 3, 3, 33, 70, 7, 0, 1, true},     {Kind::int8, 2, 5, 1, 96, 64, 0, 0, 3, true},
      {Kind::int8, 16, 2, 1, 1, 40, 0, 0, 1, true},      {Kind::int8, 2, 4, 2, 128, 100, 64, 0, 4, false}, {Kind::int4, 1, 4, 1, 64, 200, 0, 0, 2, true},
      {Kind::int4, 5, 2, 2, 80, 63, 0, 0, 3, true},      {Kind::int4, 2, 3, 1, 32, 129, 5, 40, 1, false},  {Kind::int4, 1, 2, 1, 6, 90, 0, 0, 1, true},
      {Kind::int8, 37, 4, 2, 64, 150, 64, 0, 1, true},   {Kind::float32, 21, 3, 1, 24, 90, 0, 30, 0, true},
  };
  double worst = 0;
  for (const Case& each : cases) {
    const double found = run(each), most = each.kind == Kind::int8 || each.kind == Kind::int4 ? 5e-4 : 1e-10;
    worst = std::max(worst, found);
    if (!(found <= most)) {
      std::printf("kind %d, C %lld, S %lld: error %g\n", int(each.kind), (long long)each.C, (long long)each.S, found);
      return 1;
    }
  }
  std::printf("worst error %g\n", worst);
  return 0;
}
