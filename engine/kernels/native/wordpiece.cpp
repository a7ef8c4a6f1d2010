// BERT's WordPiece tokenization (Wu et al. 2016, arXiv:1609.08144), from UTF-8 text to the same token ids as those of the package
// tokenizers. A text is split into words at spaces and punctuation. Each word is split from left to right into the longest
// entries of the vocabulary.
//
// Nothing here knows Unicode. Python asks the package tokenizers once what each character is normalized to, and adds the answer
// to a table (engine/text/wordpiece.py). A text with a character that is not in the table yet is returned to Python. Several
// threads may tokenize and add characters at once without locks, because an entry is complete before one atomic operation
// publishes it.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace crossrt {

// Bytes of the longest vocabulary entry that is allowed.
constexpr int MAX_ENTRY_BYTES = 512;
// Characters of the longest word that a tokenizer may allow; longer words are unknown.
constexpr int MAX_WORD_CHARACTERS = 1000;
// The number of texts that a thread takes at a time.
constexpr int64_t TEXTS_PER_CHUNK = 16;
// The most bytes that one character may be normalized to: three characters of four bytes.
constexpr int MAX_NORMALIZED_BYTES = 12;
// The version of the functions at the end of this file. It is increased here and in engine/text/wordpiece.py whenever their
// arguments change, so that Python does not call a library that was compiled for another version.
constexpr int INTERFACE = 1;
// These stand for the length of a text that has no ids.
constexpr int64_t UNSUPPORTED = -1, UNKNOWN_CHARACTER = -2;

// The place of a character in a text: within a word, as a separate word (punctuation, Chinese), or between words. Characters for
// which none of these is right are unsupported, and left to the package tokenizers.
enum class CharacterKind : uint8_t { in_word, alone, space, unsupported };

// A character's kind and what it is normalized to. An `in_word` character that is normalized to nothing is dropped.
struct Character {
    CharacterKind kind;
    uint8_t bytes, characters;  // of `text`
    char text[MAX_NORMALIZED_BYTES];
};

// A table from code points to characters, with two levels. It grows with the characters that occur in texts: 0.1 MB for Latin,
// Greek and Cyrillic, 42 MB for all of Unicode.
class CharacterTable {
    static constexpr int PAGE = 256;
    struct Page {
        std::atomic<const Character*> characters[PAGE]{};

        ~Page() {
            for (auto& character : characters) delete character.load();
        }
    };
    std::atomic<Page*> pages[0x110000 / PAGE]{};

public:
    CharacterTable() = default;
    CharacterTable(const CharacterTable&) = delete;
    ~CharacterTable() {
        for (auto& page : pages) delete page.load();
    }

    const Character* find(uint32_t code) const {
        const Page* page = pages[code / PAGE].load(std::memory_order_acquire);
        return page ? page->characters[code % PAGE].load(std::memory_order_acquire) : nullptr;
    }

    void add(uint32_t code, const Character& character) {
        Page* page = publish(pages[code / PAGE], [] { return std::make_unique<Page>(); });
        publish(page->characters[code % PAGE], [&] { return std::make_unique<const Character>(character); });
    }

private:
    // Returns the slot's value, and makes it if the slot is empty. If two threads do so at once, that of the first one stays.
    template <class Value, class Make>
    static Value* publish(std::atomic<Value*>& slot, Make make) {
        Value* value = slot.load(std::memory_order_acquire);
        if (value) return value;
        auto made = make();
        if (slot.compare_exchange_strong(value, made.get(), std::memory_order_acq_rel)) return made.release();
        return value;
    }
};

// Finds the longest entry of a vocabulary that begins a text. It is a hash table with linear probing, at most half full. The hash
// of a text is computed from the hash of its prefix, so one pass over a word gives the hashes of all its prefixes.
class PieceTable {
    struct Slot {
        uint32_t hash, begin;
        int32_t size, id;  // size 0: an empty slot
    };
    std::vector<char> texts;  // of all entries; a slot's `begin` and `size` refer to it
    std::vector<Slot> slots;
    std::vector<std::pair<uint64_t, Slot>> entries;  // with their 64-bit hashes; empty after `close`
    int shift = 63, longest_entry = 0;

    static uint64_t extended(uint64_t hash, char byte) { return (hash ^ uint8_t(byte)) * 0x9E3779B97F4A7C15; }

public:
    void add(std::string_view text, int32_t id) {
        uint64_t hash = 0;
        for (char byte : text) hash = extended(hash, byte);
        entries.push_back({hash, {uint32_t(hash), uint32_t(texts.size()), int32_t(text.size()), id}});
        texts.insert(texts.end(), text.begin(), text.end());
        longest_entry = std::max(longest_entry, int(text.size()));
    }

    // Builds the table, after the last `add`.
    void close() {
        while (size_t(1) << (64 - shift) < 2 * entries.size()) shift--;
        slots.resize(size_t(1) << (64 - shift));
        for (const auto& [hash, slot] : entries) {
            size_t at = hash >> shift;
            while (slots[at].size) at = (at + 1) & (slots.size() - 1);
            slots[at] = slot;
        }
        entries = {};
    }

    // Returns the size in bytes of the longest prefix of `text` that is an entry, and sets `id`. Returns 0 if there is none.
    // Entries consist of whole UTF-8 characters, so the prefix does too.
    int longest_match(std::string_view text, int32_t& id) const {
        uint64_t prefix_hashes[MAX_ENTRY_BYTES], hash = 0;
        const int size = int(std::min(text.size(), size_t(longest_entry)));
        for (int n = 0; n < size; n++) prefix_hashes[n] = hash = extended(hash, text[n]);
        for (int n = size; n > 0; n--) {
            hash = prefix_hashes[n - 1];
            for (size_t at = hash >> shift; slots[at].size; at = (at + 1) & (slots.size() - 1)) {
                const Slot& slot = slots[at];
                if (slot.hash == uint32_t(hash) && slot.size == n && !std::memcmp(&texts[slot.begin], text.data(), n)) {
                    id = slot.id;
                    return n;
                }
            }
        }
        return 0;
    }
};

class WordPiece {
    PieceTable first_pieces, later_pieces;  // entries that begin a word; "##" entries, without the "##"
    std::vector<std::string> added_tokens;
    bool begins_added_token[256]{};  // by first byte
    const int32_t unknown_id;
    const int max_word_characters;

    struct Word {
        char text[4 * MAX_WORD_CHARACTERS + MAX_NORMALIZED_BYTES];
        int bytes = 0, characters = 0;
    };

    // Once a word is too long, further characters are not counted, so that the count cannot overflow.
    void append(Word& word, const Character& character) const {
        if (word.characters > max_word_characters) return;
        word.characters += character.characters;
        if (word.characters > max_word_characters) return;
        std::memcpy(word.text + word.bytes, character.text, MAX_NORMALIZED_BYTES);
        word.bytes += character.bytes;
    }

    // Writes the ids of a word, empties it, and returns where the next ids go. If a word is too long or a part of it has no
    // entry, the whole word becomes the unknown token.
    int32_t* end_word(Word& word, int32_t* ids) const {
        const bool too_long = word.characters > max_word_characters;
        const std::string_view text{word.text, size_t(word.bytes)};
        int32_t* const begin = ids;
        if (word.characters) {
            size_t at = 0;
            while (!too_long && at < text.size()) {
                const int bytes = (at ? later_pieces : first_pieces).longest_match(text.substr(at), *ids);
                if (!bytes) break;
                ids++, at += bytes;
            }
            if (too_long || at < text.size()) *begin = unknown_id, ids = begin + 1;
        }
        word.bytes = word.characters = 0;
        return ids;
    }

    bool is_added_token(const char* at, const char* end) const {
        const std::string_view rest{at, size_t(end - at)};
        return std::any_of(added_tokens.begin(), added_tokens.end(),
                           [&](const std::string& token) { return rest.starts_with(token); });
    }

public:
    CharacterTable characters;
    int32_t largest_id = -1;

    WordPiece(int32_t unknown_id, int max_word_characters) : unknown_id(unknown_id), max_word_characters(max_word_characters) {}

    // Reads a vocabulary of `count` entries in compact JSON: `"token":id,"token":id`. Returns false for anything else. Only
    // quotation marks and backslashes may be escaped. JSON also escapes control characters, which no vocabulary has.
    bool read(const char* at, const char* end, int64_t count) {
        std::string token;
        for (; count > 0; count--) {
            if (at == end || *at++ != '"') return false;
            token.clear();
            while (at < end && *at != '"') {
                if (*at == '\\' && (++at == end || (*at != '"' && *at != '\\'))) return false;
                token.push_back(*at++);
            }
            if (end - at < 2 || *at++ != '"' || *at++ != ':') return false;
            int64_t id = 0;
            if (at == end || *at < '0' || *at > '9') return false;
            while (at < end && *at >= '0' && *at <= '9' && id <= INT32_MAX) id = 10 * id + (*at++ - '0');
            if (id > INT32_MAX || token.empty() || token.size() > MAX_ENTRY_BYTES) return false;
            largest_id = std::max(largest_id, int32_t(id));
            // "#" is punctuation, so no word begins with "##".
            if (token.size() > 2 && token.starts_with("##"))
                later_pieces.add(std::string_view(token).substr(2), int32_t(id));
            else
                first_pieces.add(token, int32_t(id));
            if (count > 1 && (at == end || *at++ != ',')) return false;
        }
        first_pieces.close(), later_pieces.close();
        return at == end;
    }

    // Adds a token that is searched for in the text before the text is split into words.
    void add(std::string_view token) {
        added_tokens.emplace_back(token);
        begins_added_token[uint8_t(token[0])] = true;
    }

    enum class Outcome { done, unsupported, unknown_character };

    // Writes the ids of one text, which must be valid UTF-8, from `out` on, and moves `out` behind them. There are no more ids
    // than bytes, because Python adds no character that is normalized to more characters than it has bytes. A text with an added
    // token is unsupported.
    Outcome tokenize(const char* at, const char* end, int32_t*& out) const {
        Word word;
        int32_t* ids = out;
        while (at < end) {
            const auto byte = uint8_t(*at);
            if (begins_added_token[byte] && is_added_token(at, end)) return Outcome::unsupported;
            const int bytes = byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
            uint32_t code = bytes == 1 ? byte : byte & (0x7F >> bytes);
            for (int n = 1; n < bytes; n++) code = code << 6 | (at[n] & 0x3F);
            at += bytes;
            const Character* character = characters.find(code);
            if (!character) return Outcome::unknown_character;
            switch (character->kind) {
                case CharacterKind::in_word:
                    append(word, *character);
                    break;
                case CharacterKind::alone:
                    ids = end_word(word, ids);
                    append(word, *character);
                    [[fallthrough]];
                case CharacterKind::space:
                    ids = end_word(word, ids);
                    break;
                case CharacterKind::unsupported:
                    return Outcome::unsupported;
            }
        }
        out = end_word(word, ids);
        return Outcome::done;
    }
};

}  // namespace crossrt

using crossrt::WordPiece;

extern "C" {

int crossrt_wordpiece_interface() { return crossrt::INTERFACE; }

// Opens a vocabulary of `count` entries (see `WordPiece::read`). Words of more than `max_word_characters` characters are unknown.
// Returns null if there is too little memory, an argument is out of range, or the vocabulary cannot be read.
WordPiece* crossrt_wordpiece_open(const char* vocabulary, int64_t bytes, int64_t count, int32_t unknown_id,
                                  int32_t max_word_characters) {
    // Offsets in the vocabulary are 32 bits.
    if (max_word_characters < 0 || max_word_characters > crossrt::MAX_WORD_CHARACTERS || bytes < 0 || bytes > INT32_MAX)
        return nullptr;
    try {
        auto opened = std::make_unique<WordPiece>(unknown_id, max_word_characters);
        return opened->read(vocabulary, vocabulary + bytes, count) ? opened.release() : nullptr;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void crossrt_wordpiece_close(WordPiece* words) { delete words; }

// Returns the largest id of the vocabulary, without added tokens, or -1 if it has no entries.
int32_t crossrt_wordpiece_largest_id(const WordPiece* words) { return words->largest_id; }

// Adds a token that is searched for before a text is split into words. Must not be called while texts are tokenized. Returns
// false if the token is empty or there is too little memory.
bool crossrt_wordpiece_add_token(WordPiece* words, const char* token, int64_t bytes) {
    if (bytes < 1) return false;
    try {
        words->add({token, size_t(bytes)});
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

bool crossrt_wordpiece_knows(const WordPiece* words, uint32_t code) {
    return code <= 0x10FFFF && words->characters.find(code);
}

// Adds a character and what it is normalized to. Returns false if there is too little memory or `code` is no code point, for more
// than MAX_NORMALIZED_BYTES bytes or characters, and for more bytes than `characters` can have.
bool crossrt_wordpiece_add(WordPiece* words, uint32_t code, uint8_t kind, const char* text, int32_t bytes, int32_t characters) {
    constexpr int32_t MAX = crossrt::MAX_NORMALIZED_BYTES;
    if (code > 0x10FFFF || bytes < 0 || bytes > MAX || characters < 0 || characters > MAX || bytes > 4 * characters) return false;
    crossrt::Character character{crossrt::CharacterKind(kind), uint8_t(bytes), uint8_t(characters), {}};
    std::memcpy(character.text, text, bytes);
    try {
        words->characters.add(code, character);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

// Tokenizes the texts from `begin` to before `end` with up to `threads` threads, including the caller's. Text i ends at `ends[i]`
// of `texts`, where the next one begins. Its ids begin at the same offset in `ids` as its bytes in `texts`, because it has no
// more ids than bytes. `lengths[i]` is the number of its ids, UNSUPPORTED for a text that is left to the package tokenizers, or
// UNKNOWN_CHARACTER. Returns the number of texts with an unknown character.
int64_t crossrt_wordpiece_tokens(const WordPiece* words, const char* texts, const int64_t* ends, int64_t begin, int64_t end,
                                 int32_t threads, int32_t* ids, int64_t* lengths) {
    std::atomic<int64_t> next = begin, unknown = 0;
    const auto work = [&] {
        for (int64_t from; (from = next.fetch_add(crossrt::TEXTS_PER_CHUNK)) < end;) {
            for (int64_t n = from; n < std::min(from + crossrt::TEXTS_PER_CHUNK, end); n++) {
                const int64_t start = n ? ends[n - 1] : 0;
                int32_t* to = ids + start;
                const auto outcome = words->tokenize(texts + start, texts + ends[n], to);
                lengths[n] = outcome == WordPiece::Outcome::done          ? to - ids - start
                             : outcome == WordPiece::Outcome::unsupported ? crossrt::UNSUPPORTED
                                                                          : crossrt::UNKNOWN_CHARACTER;
                if (lengths[n] == crossrt::UNKNOWN_CHARACTER) unknown++;
            }
        }
    };
    std::vector<std::thread> others;
    try {
        for (int n = 1; n < threads; n++) others.emplace_back(work);
    } catch (const std::exception&) {
        // The system starts no more threads, so fewer threads do the work.
    }
    work();
    for (std::thread& thread : others) thread.join();
    return unknown;
}
}
