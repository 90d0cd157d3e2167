// A file that ranks write together. Each tells all what it holds; all share it out alike; rank 0
// makes the file, under another name and at its full length; each writes its share, in place; rank
// 0 renames it.
#include <algorithm>
#include <cstring>
#include <memory>
#include <set>

#include <olm/engine/comm.h>
#include <olm/engine/file.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors_internal.h>

namespace olm {

using namespace safetensors;

namespace {

/// Bytes that are shared out as one, and that are brought to the host at a time.
constexpr int64_t kPart = 4 << 20;

/// Elements [begin, end) of tensor number `tensor` of a layout.
struct Range {
  int64_t tensor = 0, begin = 0, end = 0;
};
struct Held {
  int64_t begin = 0, end = 0;
  int rank = 0;
};

/// What a rank holds, in the numbers of a layout.
std::vector<Range> ranges_of(const std::vector<TensorLayout>& layout,
                             const std::vector<TensorPiece>& held) {
  std::map<std::string_view, int64_t> number;
  for (const TensorLayout& t : layout) number.emplace(t.name, int64_t(number.size()));
  std::vector<Range> ranges;
  for (const TensorPiece& piece : held) {
    const auto found = number.find(piece.name);
    require(found != number.end(), "write_safetensors: no tensor of the layout is called \"",
            piece.name, "\"");
    const TensorLayout& whole = layout[size_t(found->second)];
    const Tensor& t = piece.data;
    require(t.device() != meta, "write_safetensors: \"", piece.name, "\" is on meta, without data");
    require(t.dtype() == whole.dtype && piece.begin >= 0 &&
                piece.begin + t.numel() <= whole.shape.numel(),
            "write_safetensors: elements [", piece.begin, ", ", piece.begin + t.numel(),
            ") of dtype ", t.dtype(), " are no piece of \"", piece.name, "\", ", whole.dtype, " ",
            whole.shape);
    ranges.push_back({found->second, piece.begin, piece.begin + t.numel()});
  }
  return ranges;
}

std::string packed(const std::vector<Range>& ranges) {
  return {reinterpret_cast<const char*>(ranges.data()), ranges.size() * sizeof(Range)};
}

/// What ranks hold of each tensor, from what each of them said.
std::vector<std::vector<Held>> unpacked(const std::vector<std::string>& said, size_t skip,
                                        size_t tensors) {
  std::vector<std::vector<Held>> held(tensors);
  for (size_t rank = 0; rank < said.size(); ++rank)
    for (size_t at = skip; at < said[rank].size(); at += sizeof(Range)) {
      Range range;
      std::memcpy(&range, said[rank].data() + at, sizeof range);
      held[size_t(range.tensor)].push_back({range.begin, range.end, int(rank)});
    }
  return held;
}

/// Shares out tensors among the ranks that hold them, so that all write about as much.
class Shares {
 public:
  Shares(int ranks, int rank) : bytes_(size_t(ranks)), rank_(rank) {}

  void add(const TensorLayout& whole, int64_t number, const std::vector<Held>& held) {
    std::set<int64_t> cuts = {0, whole.shape.numel()};
    for (const Held& h : held) cuts.insert({h.begin, h.end});
    for (auto at = cuts.begin(), end = std::next(at); end != cuts.end(); at = end++) {
      std::vector<int> holders;
      for (const Held& h : held)
        if (h.begin <= *at && *end <= h.end) holders.push_back(h.rank);
      require(!holders.empty(), "write_safetensors: elements [", *at, ", ", *end, ") of \"",
              whole.name, "\", ", whole.shape, ", are held by none of ", bytes_.size(), " ranks");
      share({number, *at, *end}, int64_t(size_of(whole.dtype)), holders);
    }
  }
  const std::vector<Range>& mine() const { return mine_; }

 private:
  void share(const Range& range, int64_t element, const std::vector<int>& holders) {
    const int64_t part = holders.size() == 1 ? range.end - range.begin : kPart / element;
    for (int64_t begin = range.begin; begin < range.end; begin += part) {
      const int64_t end = std::min(begin + part, range.end);
      const int to = *std::min_element(holders.begin(), holders.end(), [&](int a, int b) {
        return bytes_[size_t(a)] < bytes_[size_t(b)];
      });
      bytes_[size_t(to)] += (end - begin) * element;
      if (to == rank_) mine_.push_back({range.tensor, begin, end});
    }
  }
  std::vector<int64_t> bytes_;  // of each rank
  int rank_;
  std::vector<Range> mine_;
};

/// Writes elements of a tensor from byte `at` of the file on, a part at a time.
void write_elements(FileWriter& file, size_t at, const Tensor& t, int64_t begin, int64_t end) {
  const Tensor flat = raw::reshape(t, {-1});
  const int64_t element = int64_t(size_of(t.dtype())), step = kPart / element;
  for (int64_t i = begin; i < end; i += step) {
    const int64_t n = std::min(step, end - i);
    const Tensor part = raw::contiguous(raw::to(raw::slice(flat, 0, i, i + n), cpu));
    file.write_at(at + size_t((i - begin) * element), part.data(), size_t(n * element));
  }
}

/// Writes a range from the one of these pieces that has it.
void write_range(FileWriter& file, size_t tensor_at, const Range& range,
                 const std::vector<Range>& ranges, const std::vector<TensorPiece>& pieces) {
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Range& has = ranges[i];
    if (has.tensor != range.tensor || has.begin > range.begin || range.end > has.end) continue;
    const Tensor& t = pieces[i].data;
    return write_elements(file, tensor_at + size_t(range.begin) * size_of(t.dtype()), t,
                          range.begin - has.begin, range.end - has.begin);
  }
}

}  // namespace

void write_safetensors(const std::string& path, std::vector<TensorLayout> layout,
                       const std::vector<TensorPiece>& held,
                       const std::map<std::string, std::string>& metadata, const dist::Comm& comm) {
  std::stable_sort(layout.begin(), layout.end(), [](const auto& a, const auto& b) {
    return size_of(a.dtype) > size_of(b.dtype);
  });
  std::string head, head_hash;
  std::vector<Range> ranges;
  std::vector<size_t> offsets = {0};  // of tensors behind the head, and of the end
  const std::vector<std::string> said = dist::all_gather_of(comm, [&] {
    std::vector<Described> described;
    for (const TensorLayout& t : layout) {
      described.push_back({t.name, format_name(t.dtype), t.shape,
                           byte_size(t.name, t.shape.span(), size_of(t.dtype))});
      offsets.push_back(offsets.back() + described.back().bytes);
    }
    head = head_of(described, metadata);
    head_hash = hash_hex(head);
    ranges = ranges_of(layout, held);
    return head_hash + packed(ranges);
  });
  for (size_t rank = 0; rank < said.size(); ++rank)
    require(said[rank].starts_with(said[0].substr(0, head_hash.size())),
            "write_safetensors: ", path, ": rank ", rank,
            " has other names, shapes or metadata than rank 0");
  Shares shares(comm.size(), comm.rank());
  const auto all = unpacked(said, head_hash.size(), layout.size());
  for (size_t i = 0; i < layout.size(); ++i) shares.add(layout[i], int64_t(i), all[i]);

  std::unique_ptr<FileWriter> file;
  const std::string aside = dist::all_gather_of(comm, [&] {
                              if (comm.rank() != 0) return std::string();
                              file = std::make_unique<FileWriter>(path);
                              file->reserve(head.size() + offsets.back());
                              file->write(head);
                              return file->aside();
                            }).front();
  dist::together(comm, [&] {
    if (!file) file = std::make_unique<FileWriter>(path, aside);
    for (const Range& range : shares.mine())
      write_range(*file, head.size() + offsets[size_t(range.tensor)], range, ranges, held);
    file->sync();
  });
  dist::together(comm, [&] {
    if (comm.rank() == 0) file->commit();
  });
}

}  // namespace olm
