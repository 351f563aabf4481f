// Paged attention: cuts a step into items that threads can share, once for all layers.
#include <algorithm>
#include <atomic>
#include <map>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "../operation.h"
#include "row_op.h"

namespace octavo {
namespace {

// Tokens of a task that rotates and writes, at the most.
constexpr int64_t TOKENS_A_TASK = 16;
// Items for each thread that the work is cut into where there is enough of it.
constexpr int64_t ITEMS_A_THREAD = 8;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct AttentionPlan {
  uint64_t serial = 0;  // of the step that it is for
  std::vector<AttentionItem> items;
  std::vector<AttentionMerge> merges;
  std::vector<int64_t> shared_tokens;  // of rows that are several items: written before these, and converted after them
  int64_t num_partials = 0;
  std::vector<float> partials;
};

// Plans of the step that runs, shared by the layers of a program.
class AttentionPlanner {
 public:
  // The step's plan for layers of this kind and these heads, whatever their group; its address stays.
  AttentionPlan& plan(const Step& step, const AttentionSpec& spec, int num_threads) {
    const LayerKind& kind = spec.kind;
    AttentionPlan& plan =
        plans_[{kind.name, kind.size, kind.is_causal, spec.num_heads, spec.num_kv_heads, spec.head_dim}];
    if (plan.serial == step.serial) return plan;
    plan.serial = step.serial;
    plan.items.clear();
    plan.merges.clear();
    plan.shared_tokens.clear();
    plan.num_partials = 0;
    make(plan, step, spec, num_threads);
    grow(plan.partials, plan.num_partials * spec.num_heads * spec.partial_size());
    scratch_.resize(std::max(scratch_.size(), static_cast<size_t>(num_threads)));
    for (auto& memory : scratch_) grow(memory, spec.scratch_floats());
    return plan;
  }
  float* scratch(int thread) { return scratch_[static_cast<size_t>(thread)].data(); }

 private:
  using Key = std::tuple<LayerKind::Name, int64_t, bool, int64_t, int64_t, int64_t>;

  static void grow(std::vector<float>& memory, int64_t floats) {
    if (static_cast<int64_t>(memory.size()) < floats) memory.resize(static_cast<size_t>(floats));
  }

  // A row of one query may be cut by KV heads and by chunks, one of several queries by queries and KV heads.
  static void make(AttentionPlan& plan, const Step& step, const AttentionSpec& spec, int num_threads) {
    int64_t all_chunks = 0;
    for (int64_t row = 0; row < step.num_rows; ++row) {
      const int64_t num_queries = step.query_starts[row + 1] - step.query_starts[row];
      all_chunks += divide_up(step.context_lens[row], CHUNK) * (num_queries == 1 ? 1 : num_queries);
    }
    const int64_t chunks_an_item = std::max<int64_t>(1, all_chunks / (num_threads * ITEMS_A_THREAD));
    for (int64_t row = 0; row < step.num_rows; ++row) {
      const int64_t first_token = step.query_starts[row];
      const int64_t num_queries = step.query_starts[row + 1] - first_token, context = step.context_lens[row];
      if (num_queries == 1) {
        plan_decode(plan, spec, step.tables[row], first_token, context, chunks_an_item, all_chunks < 2 * num_threads);
      } else {
        for (int64_t query = 0; query < num_queries; ++query) plan.shared_tokens.push_back(first_token + query);
        plan_prefill(plan, spec, step.tables[row], first_token, num_queries, context);
      }
    }
    // The longest first: threads end together.
    std::stable_sort(plan.items.begin(), plan.items.end(),
                     [](const AttentionItem& a, const AttentionItem& b) { return work(a) > work(b); });
  }

  static int64_t work(const AttentionItem& item) {
    return item.num_queries * (item.chunk_end - item.chunk_begin) * (item.kv_head_end - item.kv_head_begin);
  }

  static void plan_decode(AttentionPlan& plan, const AttentionSpec& spec, int64_t table, int64_t token, int64_t context,
                          int64_t chunks_an_item, bool by_head) {
    AttentionItem item;
    item.table = table;
    item.first_token = token;
    item.num_queries = 1;
    item.first_position = context - 1;
    item.num_tokens = context;
    const int64_t first_chunk = spec.kind.first_seen(context - 1) / CHUNK, end_chunk = divide_up(context, CHUNK);
    const int64_t num_chunks = end_chunk - first_chunk;
    const bool is_shared = num_chunks > chunks_an_item;
    const int64_t num_parts = is_shared ? divide_up(num_chunks, chunks_an_item) : 1;
    const int64_t heads_an_item = by_head ? 1 : spec.num_kv_heads;
    item.is_row = !is_shared && heads_an_item == spec.num_kv_heads;
    if (!item.is_row) plan.shared_tokens.push_back(token);
    if (is_shared) plan.merges.push_back({token, plan.num_partials, num_chunks});
    for (int64_t part = 0; part < num_parts; ++part) {
      item.chunk_begin = first_chunk + num_chunks * part / num_parts;
      item.chunk_end = first_chunk + num_chunks * (part + 1) / num_parts;
      item.partial = is_shared ? plan.num_partials + item.chunk_begin - first_chunk : -1;
      for (int64_t head = 0; head < spec.num_kv_heads; head += heads_an_item) {
        item.kv_head_begin = head;
        item.kv_head_end = head + heads_an_item;
        plan.items.push_back(item);
      }
    }
    if (is_shared) plan.num_partials += num_chunks;
  }

  static void plan_prefill(AttentionPlan& plan, const AttentionSpec& spec, int64_t table, int64_t first_token,
                           int64_t num_queries, int64_t context) {
    AttentionItem item;
    item.table = table;
    item.num_tokens = context;
    const int64_t most = std::max<int64_t>(1, TILE_VECTORS / spec.group());
    for (int64_t query = 0; query < num_queries; query += most) {
      item.first_token = first_token + query;
      item.num_queries = std::min(most, num_queries - query);
      item.first_position = context - num_queries + query;
      item.chunk_begin = spec.kind.first_seen(item.first_position) / CHUNK;
      item.chunk_end = spec.kind.last_seen(item.first_position + item.num_queries - 1, context) / CHUNK + 1;
      for (int64_t head = 0; head < spec.num_kv_heads; ++head) {
        item.kv_head_begin = head;
        item.kv_head_end = head + 1;
        plan.items.push_back(item);
      }
    }
  }

  std::map<Key, AttentionPlan> plans_;
  std::vector<std::vector<float>> scratch_;
};

// The tables that a layer's spec points into.
struct AttentionTables {
  Floats query_norm, key_norm, cos_sin;
};

class AttentionOp final : public Op {
 public:
  AttentionOp(const KernelTable& kernels, const AttentionSpec& spec, AttentionTables tables,
              std::shared_ptr<AttentionPlanner> planner, const KVCacheView& cache, DataType cache_type, Buffer* qkv,
              Buffer* out)
      : kernels_(kernels), tables_(std::move(tables)), planner_(std::move(planner)), qkv_(qkv), out_(out) {
    call_.spec = spec;
    call_.cache = cache;
    call_.cache_type = cache_type;
  }
  const char* name() const override { return "attention"; }

  void prepare(const Step& step, int num_threads) override {
    plan_ = &planner_->plan(step, call_.spec, num_threads);
    num_threads_ = num_threads;
    if (taken_.size() != plan_->items.size()) taken_ = std::vector<std::atomic<bool>>(plan_->items.size());
    for (std::atomic<bool>& taken : taken_) taken.store(false, std::memory_order_relaxed);
    tokens_a_task_ = std::clamp<int64_t>(num_shared_tokens() / (num_threads * 4), 1, TOKENS_A_TASK);
    call_.qkv = qkv_->data;
    call_.qkv_stride = qkv_->width;
    call_.out = out_->data;
    call_.out_stride = out_->width;
    call_.positions = step.positions;
    call_.slots = step.slots_of(call_.spec.layer_group);
    call_.block_tables = step.block_tables_of(call_.spec.layer_group);
    call_.max_blocks = step.max_blocks;
    call_.partials = plan_->partials.data();
  }

  Taking taking(int phase) const override {
    return phase == 1 || phase == 3 ? Taking::own_first : Taking::in_order;
  }
  // Write; attend; merge rows whose chunks were shared; convert rows for the product that follows. An item that is a whole
  // row does all of this, while the row's blocks and its output are near.
  int num_phases() const override { return 4; }
  int64_t num_tasks(int phase) const override {
    switch (phase) {
      case 0: return divide_up(num_shared_tokens(), tokens_a_task_);
      case 1: return std::min<int64_t>(static_cast<int64_t>(plan_->items.size()), num_threads_);
      case 2: return static_cast<int64_t>(plan_->merges.size());
      default: return out_->form == Form::float32 ? 0 : std::min<int64_t>(num_shared_tokens(), num_threads_);
    }
  }
  void run(int phase, int64_t task, int thread) override {
    switch (phase) {
      case 0: {
        const int64_t begin = task * tokens_a_task_, end = std::min(num_shared_tokens(), begin + tokens_a_task_);
        for (int64_t i = begin; i < end; ++i) kernels_.attention.write_token(call_, shared_token(i));
        break;
      }
      case 1: attend_share(static_cast<size_t>(task), static_cast<size_t>(num_tasks(phase)), thread); break;
      case 2:
        kernels_.attention.merge(call_, plan_->merges[static_cast<size_t>(task)]);
        break;
      default: {
        const int64_t num_parts = num_tasks(phase);
        const int64_t begin = num_shared_tokens() * task / num_parts, end = num_shared_tokens() * (task + 1) / num_parts;
        for (int64_t i = begin; i < end; ++i) convert_row(kernels_, *out_, shared_token(i));
      }
    }
  }

 private:
  // Every `num_shares`-th item from `first` on, so that it is known which one follows, whose keys are fetched meanwhile.
  // Then what a slower thread has left, the shortest first.
  void attend_share(size_t first, size_t num_shares, int thread) {
    const size_t num_items = plan_->items.size();
    for (size_t item = first; item < num_items; item += num_shares) {
      attend(item, item + num_shares < num_items ? item + num_shares : item, thread);
    }
    for (size_t item = num_items; item-- > 0;) attend(item, item, thread);
  }

  // An item, unless a thread has taken it already.
  void attend(size_t item, size_t next, int thread) {
    std::atomic<bool>& taken = taken_[item];
    if (taken.load(std::memory_order_relaxed) || taken.exchange(true, std::memory_order_relaxed)) return;
    const AttentionItem &this_item = plan_->items[item], &next_item = plan_->items[next];
    fetch_row(qkv_->data + next_item.first_token * qkv_->width, qkv_->width);
    if (this_item.is_row) kernels_.attention.write_token(call_, this_item.first_token);
    kernels_.attention.attend(call_, this_item, next_item, planner_->scratch(thread));
    if (this_item.is_row) convert_row(kernels_, *out_, this_item.first_token);
  }

  int64_t num_shared_tokens() const { return static_cast<int64_t>(plan_->shared_tokens.size()); }
  int64_t shared_token(int64_t index) const { return plan_->shared_tokens[static_cast<size_t>(index)]; }

  const KernelTable& kernels_;
  AttentionTables tables_;
  std::shared_ptr<AttentionPlanner> planner_;
  Buffer *qkv_, *out_;
  AttentionCall call_;
  AttentionPlan* plan_ = nullptr;
  std::vector<std::atomic<bool>> taken_;  // the plan's items
  int num_threads_ = 1;
  int64_t tokens_a_task_ = 1;
};

LayerKind read_kind(const Arguments& kind) {
  const auto name = kind.get<std::string>("name");
  const bool is_causal = kind.get<bool>("is_causal");
  if (name == "Full") return {LayerKind::Name::full, 0, is_causal};
  if (name == "Window") return {LayerKind::Name::window, kind.get<int64_t>("size"), is_causal};
  throw std::invalid_argument("the C++ kernels have no attention of kind '" + name + "': use --kernels reference");
}

AttentionSpec read_spec(const Call& call, const AttentionTables& tables) {
  const Arguments& given = call.arguments.fields("spec");
  AttentionSpec spec;
  spec.layer_group = call.arguments.get<int64_t>("layer_group");
  spec.layer = call.arguments.get<int64_t>("place");
  spec.num_heads = given.get<int64_t>("num_heads");
  spec.num_kv_heads = given.get<int64_t>("num_kv_heads");
  spec.head_dim = given.get<int64_t>("head_dim");
  spec.scale = static_cast<float>(given.get<double>("scale"));
  spec.kind = read_kind(given.fields("kind"));
  spec.softcap = static_cast<float>(given.get_or<double>("softcap", 0));
  spec.query_norm = tables.query_norm.data.get();
  spec.key_norm = tables.key_norm.data.get();
  spec.norm_eps = static_cast<float>(given.get<double>("norm_eps"));
  spec.cos_sin = tables.cos_sin.data.get();
  spec.rotary_dim = tables.cos_sin.num_columns;
  return spec;
}

KVCacheView read_cache(const Arguments& given, DataType type) {
  KVCacheView cache;
  cache.base = reinterpret_cast<uint8_t*>(given.get<int64_t>("address"));
  cache.num_blocks = given.get<int64_t>("num_blocks");
  cache.num_layers = given.get<int64_t>("num_layers");
  cache.block_size = given.get<int64_t>("block_size");
  cache.num_kv_heads = given.get<int64_t>("num_kv_heads");
  cache.head_dim = given.get<int64_t>("head_dim");
  cache.item_bytes = type == DataType::float32 ? 4 : type == DataType::int8 ? 1 : 2;
  cache.has_scales = type == DataType::int8;
  return cache;
}

// `qkv` is [num_tokens, (num_heads + 2 num_kv_heads) head_dim] and is normalised and rotated in place; the result
// [num_tokens, num_heads head_dim].
void add_attention(const Call& call) {
  const Arguments &fields = call.arguments.fields("spec"), &cache_fields = call.arguments.fields("cache");
  AttentionTables tables{fields.get_or<Floats>("query_norm", {}), fields.get_or<Floats>("key_norm", {}),
                         fields.get_or<Floats>("cos_sin", {})};
  const AttentionSpec spec = read_spec(call, tables);
  const auto type = static_cast<DataType>(cache_fields.get<int64_t>("type"));
  const KVCacheView cache = read_cache(cache_fields, type);
  const auto qkv = call.arguments.get<Buffer*>("qkv");
  Buffer* out = call.results.at(0);
  const bool fits = spec.num_kv_heads > 0 && spec.num_heads % spec.num_kv_heads == 0 && spec.rotary_dim % 2 == 0 &&
                    spec.rotary_dim <= spec.head_dim && spec.layer < cache.num_layers &&
                    spec.num_kv_heads == cache.num_kv_heads && spec.head_dim == cache.head_dim &&
                    qkv->width == (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim &&
                    out->width == spec.num_heads * spec.head_dim;
  if (!fits) throw std::invalid_argument("an attention's heads do not fit its buffers and its cache");
  if (type == DataType::int8 && spec.head_dim > MAX_INT8_HEAD_DIM) {
    throw std::invalid_argument("the C++ kernels attend to an int8 KV cache where heads have at most 1,024 dimensions: use "
                                "another --kv-cache-dtype");
  }
  call.program.need_layer_groups(spec.layer_group + 1);
  call.program.add(std::make_unique<AttentionOp>(call.kernels, spec, std::move(tables),
                                                 call.program.shared<AttentionPlanner>(), cache, type, qkv, out),
                   {qkv, out});
}

const Operation attention("attention", add_attention);

}  // namespace
}  // namespace octavo
