// Scores one batch with the kernels of SOURCE, a file of engine/kernels/native.
//
// Standard input has records: a size of 64 bits, and as many bytes. They are `ModelDims`, the number of threads (32 bits), the
// arguments of `crossrt_score` (rows, offsets, ids, types) and the model's arrays. The logits go to standard output.

#include <cstdio>

#include SOURCE

struct Record {
    void* bytes;  // aligned to 64 bytes
    size_t size;
};

static bool read(Record& record) {
    int64_t size;
    if (std::fread(&size, sizeof size, 1, stdin) != 1) return false;
    record = {std::aligned_alloc(64, (size + 63) / 64 * 64), size_t(size)};
    return std::fread(record.bytes, 1, size, stdin) == record.size;
}

int main() {
    Record dims, threads, rows, offsets, ids, types, array;
    for (Record* record : {&dims, &threads, &rows, &offsets, &ids, &types})
        if (!read(*record)) return 2;
    std::vector<const void*> arrays;
    while (read(array)) arrays.push_back(array.bytes);
    Encoder* encoder;
    if (crossrt_open(static_cast<const ModelDims*>(dims.bytes), arrays.data(), arrays.size(), &encoder) != OK) return 3;
    Workspace* workspace = crossrt_new_workspace(encoder, *static_cast<const int*>(threads.bytes));
    if (!workspace) return 4;
    const int64_t count = rows.size / sizeof(int64_t);
    std::vector<float> logits(count * encoder->dims.labels);
    if (crossrt_score(encoder, workspace, count, static_cast<const int64_t*>(rows.bytes), static_cast<const int64_t*>(offsets.bytes),
                      static_cast<const int32_t*>(ids.bytes), static_cast<const uint8_t*>(types.bytes), logits.data()) != OK)
        return 5;
    std::fwrite(logits.data(), sizeof(float), logits.size(), stdout);
    crossrt_free_workspace(workspace);
    crossrt_close(encoder);
}
