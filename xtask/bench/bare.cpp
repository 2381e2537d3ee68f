// Bare libtorch does what a pipeline of `trivial` layers does, on one thread. This is the lower
// bound for the dispatch row.
//
//   --way cut     one graph and one backward for each stage and micro-batch, as in a pipeline
//   --way uncut   one graph and one backward for all micro-batches
//
// It answers `check` and `turn N` as described in `xtask/programs/src/bin/bench/main.rs`.

#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

using torch::Tensor;
using torch::autograd::backward;

struct Settings {
  std::string way;
  int64_t stages = 2, width = 4, rows = 8, chunks = 1;
};

// The same formula as in values.rs.
Tensor uniform(const std::string& name, torch::IntArrayRef shape) {
  int64_t letters = 0, count = 1, place = 0;
  for (unsigned char letter : name)
    letters += letter * ++place;
  for (int64_t size : shape)
    count *= size;
  Tensor waves =
      torch::arange(count, torch::kDouble) * 12.9898 + static_cast<double>(letters % 1000) * M_PI;
  waves = waves.sin() * 43758.5453;
  return ((waves - waves.floor()) * 2 - 1).to(torch::kFloat).reshape(shape);
}

struct Model {
  Settings settings;
  std::vector<Tensor> weights;
  Tensor input, target;

  explicit Model(const Settings& given) : settings(given) {
    for (int64_t stage = 0; stage < settings.stages; stage++) {
      Tensor numbers = uniform("layers_" + std::to_string(stage) + "_weight", {settings.width});
      weights.push_back((numbers * 0.1 + 1).requires_grad_());
    }
    input = uniform("input", {settings.rows, settings.width});
    target = uniform("target", {settings.rows, settings.width});
  }

  Tensor cut() {
    // Indexed by micro-batch, then by stage.
    std::vector<std::vector<Tensor>> received, made;
    std::vector<Tensor> outputs;
    for (const Tensor& part : input.chunk(settings.chunks)) {
      received.emplace_back();
      made.emplace_back();
      Tensor x = part;
      for (const Tensor& weight : weights) {
        if (!made.back().empty())
          x = x.detach().requires_grad_();
        received.back().push_back(x);
        x = x * weight;
        made.back().push_back(x);
      }
      outputs.push_back(x.detach().requires_grad_());
    }
    Tensor loss = torch::mse_loss(torch::cat(outputs), target);
    loss.backward();
    for (size_t part = outputs.size(); part-- > 0;) {
      Tensor gradient = outputs[part].grad();
      for (size_t stage = weights.size(); stage-- > 0;) {
        backward({made[part][stage]}, {gradient});
        gradient = received[part][stage].grad();
      }
    }
    return loss;
  }

  Tensor uncut() {
    std::vector<Tensor> outputs;
    for (Tensor x : input.chunk(settings.chunks)) {
      for (const Tensor& weight : weights)
        x = x * weight;
      outputs.push_back(x);
    }
    Tensor loss = torch::mse_loss(torch::cat(outputs), target);
    loss.backward();
    return loss;
  }

  // Runs a step. Returns its milliseconds and sets `loss`.
  double step(double& loss) {
    for (Tensor& weight : weights)
      weight.mutable_grad() = Tensor();
    auto start = std::chrono::steady_clock::now();
    Tensor value = settings.way == "cut" ? cut() : uncut();
    std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    loss = value.item<double>();
    return time.count();
  }

  double gradient_norm() {
    double squares = 0;
    for (const Tensor& weight : weights)
      squares += weight.grad().to(torch::kDouble).square().sum().item<double>();
    return std::sqrt(squares);
  }
};

int main(int count, char** words) {
  Settings settings;
  for (int word = 1; word + 1 < count; word += 2) {
    std::string name = words[word], value = words[word + 1];
    if (name == "--way")
      settings.way = value;
    if (name == "--stages")
      settings.stages = std::stoll(value);
    if (name == "--width")
      settings.width = std::stoll(value);
    if (name == "--rows")
      settings.rows = std::stoll(value);
    if (name == "--chunks")
      settings.chunks = std::stoll(value);
  }
  torch::set_num_threads(1);
  Model model(settings);
  std::cout << "ready" << std::endl;
  std::cout.precision(12);
  std::string line;
  while (std::getline(std::cin, line) && line != "end") {
    std::istringstream request(line);
    std::string what;
    int64_t steps = 0;
    request >> what >> steps;
    double loss;
    model.step(loss);
    if (what == "check") {
      std::cout << loss << ' ' << model.gradient_norm() << std::endl;
      continue;
    }
    for (int64_t step = 0; step < steps; step++)
      std::cout << model.step(loss) << ' ';
    std::cout << loss << std::endl;
  }
}
