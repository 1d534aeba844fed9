#include "core/error.h"
#include "optim/groups.h"
#include "optim/rules/table.h"
#include "optim/schedule.h"
#include "trainer/config/key_row.h"
#include "trainer/config/schedule_changes.h"

namespace lockstep::keys {
namespace {

bool is_step_list(std::string_view text) {
  return parse_steps(std::string(text)).has_value();
}

bool is_change_list(std::string_view text) {
  return parse_changes(text).has_value();
}

std::string why_no_groups(std::string_view text) {
  try {
    (void)parse_groups(text);
    return "";
  } catch (const ConfigError& e) {
    // The key stands before it already.
    return std::string(e.what()).substr(std::string("optimizer.groups: ").size());
  }
}

using C = Config;

}  // namespace

void add_training(std::vector<ConfigBinding>& t) {
  const auto train = &C::train;
  t.push_back(
      row("train.epochs", train, &C::Train::epochs, "passes over the training data (0: until train.steps)")
          .between(0, 1e9));
  t.push_back(row("train.steps", train, &C::Train::steps, "upper bound of steps (0: none)"));
  t.push_back(
      row("train.global_batch", train, &C::Train::global_batch, "samples per step, all ranks together")
          .between(1, 1e9));
  t.push_back(
      row("train.slices", train, &C::Train::slices, "equal parts of a batch; must divide it (0: chosen)")
          .between(0, 1e6));
  t.push_back(row("train.reduction", train, &C::Train::reduction,
                  "ordered: the same bits at any placement; fast: the library's sum")
                  .one_of({"ordered", "fast"}));
  t.push_back(row("train.bucket_mb", train, &C::Train::bucket_mb, "megabytes of gradient exchanged at once")
                  .between(0, 1e6)
                  .above(0)
                  .placement());
  t.push_back(row("train.overlap", train, &C::Train::overlap, "exchange gradients during the backward pass")
                  .placement());
  t.push_back(row("train.precision", train, &C::Train::precision,
                  "number format of the computation; a CPU has fp32 and bf16")
                  .one_of({"fp32", "tf32", "bf16", "fp16"}));
  t.push_back(row("train.eval_batch", train, &C::Train::eval_batch,
                  "samples per evaluation step (0: train.global_batch)")
                  .between(0, 1e9));
  t.push_back(row("train.best", train, &C::Train::best,
                  "metric of the best weights; auto: accuracy where there are classes, else loss")
                  .one_of({"auto", "accuracy", "loss"}));

  const auto optimizer = &C::optimizer;
  t.push_back(row("optimizer.name", optimizer, &C::Optimizer::name, "update rule").one_of(rule_names()));
  t.push_back(row("optimizer.lr", optimizer, &C::Optimizer::lr, "learning rate").between(0, 1e6));
  t.push_back(row("optimizer.momentum", optimizer, &C::Optimizer::momentum,
                  rules_with(rules::key_momentum) + ": momentum")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("optimizer.nesterov", optimizer, &C::Optimizer::nesterov,
                  rules_with(rules::key_nesterov) + ": Nesterov's momentum"));
  t.push_back(row("optimizer.beta1", optimizer, &C::Optimizer::beta1,
                  rules_with(rules::key_beta1) + ": decay of the mean")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("optimizer.beta2", optimizer, &C::Optimizer::beta2,
                  rules_with(rules::key_beta2) + ": decay of the mean square (lion: of its mean)")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("optimizer.epsilon", optimizer, &C::Optimizer::epsilon,
                  rules_with(rules::key_epsilon) + ": added to the root")
                  .between(0, 1)
                  .above(1e-30));
  t.push_back(row("optimizer.trust", optimizer, &C::Optimizer::trust,
                  rules_with(rules::key_trust) + ": how far a parameter may move, as part of its norm")
                  .between(0, 1e3)
                  .above(0));
  t.push_back(row("optimizer.weight_decay", optimizer, &C::Optimizer::weight_decay,
                  rules_that_shrink(true) + ": decoupled; the others: added to the gradient")
                  .between(0, 1e3));
  t.push_back(row("optimizer.decay_norms", optimizer, &C::Optimizer::decay_norms,
                  "decay norms and biases too (parameters of one dimension)"));
  t.push_back(row("optimizer.groups", optimizer, &C::Optimizer::groups,
                  "other rates and decays by parameter name, e.g. stem.*: lr=0.1x; *.bias: decay=0")
                  .refused_for(why_no_groups));
  t.push_back(
      row("optimizer.clip_norm", optimizer, &C::Optimizer::clip_norm, "largest norm of the gradient (0: off)")
          .between(0, 1e30));
  t.push_back(
      row("optimizer.sharded", optimizer, &C::Optimizer::sharded, "each rank keeps and updates its own part")
          .placement());

  const auto schedule = &C::schedule;
  t.push_back(row("schedule.name", schedule, &C::Schedule::name, "learning rate over steps")
                  .one_of({"constant", "cosine", "step"}));
  t.push_back(row("schedule.warmup_steps", schedule, &C::Schedule::warmup_steps, "steps of linear warm-up"));
  t.push_back(row("schedule.steps", schedule, &C::Schedule::steps,
                  "horizon (0: what train.epochs or train.steps gives)"));
  t.push_back(row("schedule.min_lr", schedule, &C::Schedule::min_lr, "where cosine ends").between(0, 1e6));
  t.push_back(row("schedule.milestones", schedule, &C::Schedule::milestones,
                  "step: steps at which the rate is multiplied by schedule.gamma, e.g. 3000,6000")
                  .such_as(is_step_list, "a list of rising steps such as 3000,6000"));
  t.push_back(row("schedule.gamma", schedule, &C::Schedule::gamma, "step: what the rate is multiplied by")
                  .between(0, 1)
                  .above(0));
  t.push_back(row("schedule.changes", schedule, &C::Schedule::changes,
                  "other values from some step on, e.g. 400: optimizer.lr=0.01; --resume adds to it")
                  .such_as(is_change_list,
                           "a list such as 400: optimizer.lr=0.01; 900: optimizer.lr=0.001, "
                           "whose steps rise and whose keys are optimizer.lr or of schedule"));
}

}  // namespace lockstep::keys
