// How accurate the statistics of batch norm are that come from a convolution's sums, with the host in the
// part of the GPU.

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <random>

#include "model/cuda/host_machine.h"

namespace lockstep::cuda {
namespace {

using test::HostMachine;

struct Statistics {
  std::vector<float> mean, inverse, means, variances;
};
/// Of (rows, channels) values in float16; with sums as a library gives them, or without.
Statistics statistics(const std::vector<Fp16>& x, std::int64_t valid, std::int64_t channels,
                      const GivenSums& given) {
  const auto rows = static_cast<std::int64_t>(x.size()) / channels;
  const ChunkPlan plan = chunk_plan(rows);
  const SliceHeader header{valid};
  const auto c = static_cast<std::size_t>(channels);
  const float poison = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> a(static_cast<std::size_t>(plan.chunks) * c, poison), b = a;
  std::vector<double> ga(static_cast<std::size_t>(plan.groups) * c, poison), gb = ga;
  Statistics s{std::vector<float>(c), std::vector<float>(c), std::vector<float>(c), std::vector<float>(c)};
  HostMachine machine;
  machine.each(plan.chunks * channels,
               NormChunk<Fp16>{x.data(), a.data(), b.data(), &header, channels, 1, plan, given});
  machine.each(plan.groups * channels,
               NormGroup{a.data(), b.data(), ga.data(), gb.data(), &header, channels, 1, plan, given});
  machine.each(channels, NormFinish{ga.data(), gb.data(), s.mean.data(), s.inverse.data(), s.means.data(),
                                    s.variances.data(), &header, channels, 1, 1e-5, plan, given});
  return s;
}

TEST(CudaNormFusion, SumsThatWouldCancelAreNotUsed) {
  // Means in deviations; the last channel is constant, the one before it dead.
  const std::vector<double> means = {0, 0.5, 2, 3.5, 3.9, 4.1, 10, 100, 1000, 0, 7};
  const auto channels = static_cast<std::int64_t>(means.size());
  const std::int64_t rows = 20000, valid = 17003;
  std::mt19937 random(3);
  std::normal_distribution<double> draw;
  std::vector<Fp16> x(static_cast<std::size_t>(rows * channels), Fp16{0});
  std::vector<float> sum(means.size()), squares(means.size());
  std::vector<double> exact(means.size()), exact_squares(means.size());
  for (std::size_t i = 0; i < static_cast<std::size_t>(valid * channels); ++i) {
    const std::size_t c = i % means.size();
    const bool constant = c + 2 >= means.size();
    store(x[i], static_cast<float>(means[c] + (constant ? 0.0 : draw(random))));
    const float v = load(x[i]);
    sum[c] += v;
    squares[c] += v * v;
    exact[c] += static_cast<double>(v);
    exact_squares[c] += static_cast<double>(v) * static_cast<double>(v);
  }
  const GivenSums given{sum.data(), squares.data()};
  const Statistics got = statistics(x, valid, channels, given), two = statistics(x, valid, channels, {});
  int served = 0;
  for (std::size_t c = 0; c < means.size(); ++c) {
    const auto n = static_cast<double>(valid);
    const double mean = exact[c] / n;
    double variance = 0;
    for (std::size_t r = 0; r < static_cast<std::size_t>(valid); ++r)
      variance += std::pow(static_cast<double>(load(x[r * means.size() + c])) - mean, 2) / n;
    const double unbiased = variance * n / (n - 1);
    ASSERT_TRUE(std::isfinite(got.variances[c]) && std::isfinite(got.inverse[c]));
    const double error = std::abs(static_cast<double>(got.variances[c]) / n - unbiased);
    const double naive = std::abs(static_cast<double>(squares[c]) / n -
                                  std::pow(static_cast<double>(sum[c]) / n, 2) - variance);
    if (given.serve(static_cast<std::int64_t>(c), valid)) {
      ++served;
      const double e =
          std::max(std::abs(static_cast<double>(sum[c]) - exact[c]) / std::abs(exact[c] + 1e-30),
                   std::abs(static_cast<double>(squares[c]) - exact_squares[c]) / (exact_squares[c] + 1e-30));
      EXPECT_LE(error, (49 * e + 1e-6) * unbiased) << means[c];
      EXPECT_LE(error, 1e-3 * unbiased) << means[c];  // worse than float16's 2^-11 only where e is above 1e-5
      EXPECT_LE(std::abs(means[c]), 4.0);
    } else {
      // As if nothing had been summed, bit for bit; and so accurate, where the sums are not.
      EXPECT_EQ(got.mean[c], two.mean[c]);
      EXPECT_EQ(got.inverse[c], two.inverse[c]);
      EXPECT_EQ(got.variances[c], two.variances[c]);
      EXPECT_LE(error, 1e-5 * unbiased);
      if (means[c] >= 100) {
        EXPECT_GT(naive, 1e-3 * variance) << "the data is not hard";
      }
    }
  }
  EXPECT_EQ(served, 6);  // up to 3.9 deviations, and the dead channel
}

TEST(CudaNormFusion, GradientSumsThatWouldCancelAreNotUsed) {
  const std::vector<float> means = {0, 1, 3.9f, 4.1f, 100, 1000};
  const std::size_t channels = means.size();
  const std::int64_t n = static_cast<std::int64_t>(channels), rows = 9001;
  std::mt19937 random(4);
  std::normal_distribution<float> draw;
  std::vector<Fp16> x(static_cast<std::size_t>(rows) * channels), dy(x.size());
  const std::vector<float> inverse(channels, 1.0f);
  std::vector<float> sums(channels), products(channels), given_dgamma(channels);
  std::vector<double> exact(channels), scale(channels);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t c = i % channels;
    store(x[i], means[c] + draw(random));
    store(dy[i], 1 + draw(random));  // its sum is not small
    const float a = load(x[i]), g = load(dy[i]);
    sums[c] += g;
    products[c] += g * a;
    exact[c] += static_cast<double>(g) * (static_cast<double>(a) - static_cast<double>(means[c]));
    scale[c] += std::abs(static_cast<double>(g));
  }
  for (std::size_t c = 0; c < channels; ++c) given_dgamma[c] = products[c] - means[c] * sums[c];
  const auto gradients = [&](const GivenGradientSums& given) {
    const ChunkPlan plan = chunk_plan(rows);
    const SliceHeader header{rows};
    const float poison = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> a(static_cast<std::size_t>(plan.chunks) * channels, poison), b = a;
    std::vector<double> ga(static_cast<std::size_t>(plan.groups) * channels, poison), gb = ga;
    std::pair<std::vector<float>, std::vector<float>> out{channels, channels};
    HostMachine machine;
    machine.each(plan.chunks * n, GradientChunk<Fp16>{x.data(),
                                                      dy.data(),
                                                      {},
                                                      means.data(),
                                                      inverse.data(),
                                                      a.data(),
                                                      b.data(),
                                                      &header,
                                                      n,
                                                      1,
                                                      plan,
                                                      given});
    machine.each(2 * plan.groups * n, SumGroup{{a.data(), b.data()}, {ga.data(), gb.data()}, n, plan, given});
    machine.each(2 * n,
                 SumFinish{{ga.data(), gb.data()}, {out.first.data(), out.second.data()}, n, plan, given});
    return out;
  };
  const GivenGradientSums given{given_dgamma.data(), sums.data(), means.data(), inverse.data()};
  const auto [dbeta, dgamma] = gradients(given);
  const auto [two_dbeta, two_dgamma] = gradients({});
  int served = 0;
  for (std::size_t c = 0; c < channels; ++c) {
    const double error = std::abs(static_cast<double>(dgamma[c]) - exact[c]);
    EXPECT_LE(error, 5e-5 * scale[c]) << means[c];
    if (given.serve(static_cast<std::int64_t>(c))) {
      ++served;
      EXPECT_EQ(dgamma[c], given_dgamma[c]);
      EXPECT_EQ(dbeta[c], sums[c]);
    } else {
      EXPECT_EQ(dgamma[c], two_dgamma[c]);
      EXPECT_EQ(dbeta[c], two_dbeta[c]);
    }
    if (means[c] >= 1000) {
      EXPECT_GT(std::abs(static_cast<double>(given_dgamma[c]) - exact[c]), 5e-5 * scale[c]) << "not hard";
    }
  }
  EXPECT_EQ(served, 3);
}

TEST(CudaNormFusion, SumsThatAreNotFiniteAreNotUsed) {
  const std::vector<Fp16> x = {Fp16{0x3c00}, Fp16{0x4000}};  // 1, 2
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [a, b] :
       {std::pair(3.0f, infinity), std::pair(nan, 5.0f), std::pair(3.0f, nan), std::pair(infinity, 5.0f)}) {
    const float sum = a, squares = b;
    const Statistics got = statistics(x, 2, 1, {&sum, &squares});
    EXPECT_EQ(got.mean[0], 1.5f);
    EXPECT_EQ(got.variances[0], 2 * 0.5f);
  }
}

}  // namespace
}  // namespace lockstep::cuda
