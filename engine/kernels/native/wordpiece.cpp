// WordPiece tokenization as BERT does it: text in, token ids out, those of the package tokenizers.
//
// Nothing here knows Unicode. Python asks the real tokenizer once what becomes of a character and adds it to the table
// (engine/text/wordpiece.py); a text with a character that is not in it yet is handed back. No locks: readers see a character
// that another thread adds whole or not at all.

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

// Bytes of the longest entry that a vocabulary may have, and characters of the longest word that it may allow.
constexpr int LONGEST_ENTRY = 512, LONGEST_WORD = 1000;
// Texts that a thread takes at a time.
constexpr int64_t TOGETHER = 16;
// Bytes of what a character may become: three characters.
constexpr int BECOMES = 12;
// Of the functions at the end, for Python: one more with each change of what they take.
constexpr int INTERFACE = 1;

enum class Kind : uint8_t { in_word, alone, space, unsupported };

// What becomes of a character; in_word of no bytes is nothing at all.
struct Character {
    Kind kind;
    uint8_t bytes, characters;
    char text[BECOMES];
};

// Grows with the characters that texts hold: 0.1 MB for Latin, Greek and Cyrillic, 42 MB for all of Unicode.
class Characters {
    static constexpr int PAGE = 256;
    struct Page {
        std::atomic<const Character*> characters[PAGE]{};

        ~Page() {
            for (auto& each : characters) delete each.load();
        }
    };
    std::atomic<Page*> pages[0x110000 / PAGE]{};

public:
    Characters() = default;
    Characters(const Characters&) = delete;
    ~Characters() {
        for (auto& each : pages) delete each.load();
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
    // What is there, or else what is made now; where two threads make it at once, the first one's.
    template <class Made, class Make>
    static Made* publish(std::atomic<Made*>& place, Make make) {
        Made* there = place.load(std::memory_order_acquire);
        if (there) return there;
        auto made = make();
        if (place.compare_exchange_strong(there, made.get(), std::memory_order_acq_rel)) return made.release();
        return there;
    }
};

// A hash table from texts to ids. The hash of a text goes on from the hash of its beginning, so that those of all
// beginnings of a word come in one pass over it.
class Pieces {
    struct Slot {
        uint32_t hash, begin;
        int32_t size, id;  // no size: free
    };
    std::vector<char> texts;
    std::vector<Slot> slots;
    std::vector<std::pair<uint64_t, Slot>> entries;  // with their whole hashes, until all are here
    int shift = 63, longest_entry = 0;

    static uint64_t hashed(uint64_t hash, char byte) { return (hash ^ uint8_t(byte)) * 0x9E3779B97F4A7C15; }

public:
    void add(std::string_view text, int32_t id) {
        uint64_t hash = 0;
        for (char byte : text) hash = hashed(hash, byte);
        entries.push_back({hash, {uint32_t(hash), uint32_t(texts.size()), int32_t(text.size()), id}});
        texts.insert(texts.end(), text.begin(), text.end());
        longest_entry = std::max(longest_entry, int(text.size()));
    }

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

    // The bytes of the longest beginning of `text` that is here; 0 if none is. An entry is whole characters, and so is
    // what equals it.
    int longest(std::string_view text, int32_t& id) const {
        uint64_t beginnings[LONGEST_ENTRY], hash = 0;
        const int size = int(std::min(text.size(), size_t(longest_entry)));
        for (int n = 0; n < size; n++) beginnings[n] = hash = hashed(hash, text[n]);
        for (int n = size; n > 0; n--) {
            hash = beginnings[n - 1];
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
    Pieces first, later;  // of a word; the later ones without their "##"
    std::vector<std::string> added;
    bool begins_added[256]{};
    const int32_t unknown;
    const int most;  // characters of a word that is not too long

    struct Word {
        char text[4 * LONGEST_WORD + BECOMES];
        int bytes = 0, characters = 0;
    };

    // Once a word is too long it stays so, however long: nothing more is counted.
    void append(Word& word, const Character& character) const {
        if (word.characters > most) return;
        word.characters += character.characters;
        if (word.characters > most) return;
        std::memcpy(word.text + word.bytes, character.text, BECOMES);
        word.bytes += character.bytes;
    }

    // Ends the word: writes its ids and returns where the next go.
    int32_t* finish(Word& word, int32_t* ids) const {
        const bool too_long = word.characters > most;
        const std::string_view text{word.text, size_t(word.bytes)};
        int32_t* const begin = ids;
        if (word.characters) {
            size_t at = 0;
            while (!too_long && at < text.size()) {
                const int bytes = (at ? later : first).longest(text.substr(at), *ids);
                if (!bytes) break;
                ids++, at += bytes;
            }
            if (too_long || at < text.size()) *begin = unknown, ids = begin + 1;
        }
        word.bytes = word.characters = 0;
        return ids;
    }

    bool is_added(const char* at, const char* end) const {
        const std::string_view rest{at, size_t(end - at)};
        return std::any_of(added.begin(), added.end(), [&](const std::string& each) { return rest.starts_with(each); });
    }

public:
    Characters characters;
    int32_t largest_id = -1;

    WordPiece(int32_t unknown, int most) : unknown(unknown), most(most) {}

    // Reads `"token":id,"token":id`, compact JSON. False for what is no such thing, and for escapes other than of quotation
    // marks and backslashes: control characters, which no vocabulary has.
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
            if (id > INT32_MAX || token.empty() || token.size() > LONGEST_ENTRY) return false;
            largest_id = std::max(largest_id, int32_t(id));
            // "#" is punctuation, so no word begins with "##".
            if (token.size() > 2 && token.starts_with("##"))
                later.add(std::string_view(token).substr(2), int32_t(id));
            else
                first.add(token, int32_t(id));
            if (count > 1 && (at == end || *at++ != ',')) return false;
        }
        first.close(), later.close();
        return at == end;
    }

    void add(std::string_view token) {
        added.emplace_back(token);
        begins_added[uint8_t(token[0])] = true;
    }

    enum class Outcome { done, unsupported, unknown_character };

    // Appends the ids of one text: no more than it has bytes. It is valid UTF-8.
    Outcome tokenize(const char* at, const char* end, int32_t*& out) const {
        Word word;
        int32_t* ids = out;
        while (at < end) {
            const auto byte = uint8_t(*at);
            if (begins_added[byte] && is_added(at, end)) return Outcome::unsupported;
            const int bytes = byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
            uint32_t code = bytes == 1 ? byte : byte & (0x7F >> bytes);
            for (int n = 1; n < bytes; n++) code = code << 6 | (at[n] & 0x3F);
            at += bytes;
            const Character* character = characters.find(code);
            if (!character) return Outcome::unknown_character;
            switch (character->kind) {
                case Kind::in_word:
                    append(word, *character);
                    break;
                case Kind::alone:
                    ids = finish(word, ids);
                    append(word, *character);
                    [[fallthrough]];
                case Kind::space:
                    ids = finish(word, ids);
                    break;
                case Kind::unsupported:
                    return Outcome::unsupported;
            }
        }
        out = finish(word, ids);
        return Outcome::done;
    }
};

}  // namespace crossrt

using crossrt::WordPiece;

extern "C" {

int crossrt_wordpiece_interface() { return crossrt::INTERFACE; }

// Null where there is too little memory or the vocabulary cannot be read.
WordPiece* crossrt_wordpiece_open(const char* vocabulary, int64_t bytes, int64_t count, int32_t unknown, int32_t most) {
    // Places in the vocabulary are 32 bits.
    if (most < 0 || most > crossrt::LONGEST_WORD || bytes < 0 || bytes > INT32_MAX) return nullptr;
    try {
        auto opened = std::make_unique<WordPiece>(unknown, most);
        return opened->read(vocabulary, vocabulary + bytes, count) ? opened.release() : nullptr;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void crossrt_wordpiece_close(WordPiece* words) { delete words; }

// The largest id of the vocabulary, without that of tokens that are added; -1 of none.
int32_t crossrt_wordpiece_largest_id(const WordPiece* words) { return words->largest_id; }

// A token that is found before words are; not while texts are tokenized. False where there is too little memory.
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

// What becomes of a character. False where there is too little memory, for more than BECOMES bytes or characters, and for more
// bytes than the characters can have.
bool crossrt_wordpiece_add(WordPiece* words, uint32_t code, uint8_t kind, const char* text, int32_t bytes, int32_t characters) {
    if (code > 0x10FFFF || bytes < 0 || bytes > crossrt::BECOMES || characters < 0 || characters > crossrt::BECOMES ||
        bytes > 4 * characters)
        return false;
    crossrt::Character character{crossrt::Kind(kind), uint8_t(bytes), uint8_t(characters), {}};
    std::memcpy(character.text, text, bytes);
    try {
        words->characters.add(code, character);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

// Tokenizes the texts from `begin` to `end`; text i ends at `ends[i]` of `texts`, where the next one begins. Its ids are
// `lengths[i]` from `ids` on, as many further as its first byte is, since it has no more than bytes. A text that is left to the
// real tokenizer has length -1, and one with a character that is not known yet -2; returns how many have that. As many as
// `threads` work at it, this one among them.
int64_t crossrt_wordpiece_tokens(const WordPiece* words, const char* texts, const int64_t* ends, int64_t begin, int64_t end,
                                 int32_t threads, int32_t* ids, int64_t* lengths) {
    std::atomic<int64_t> next = begin, unknown = 0;
    const auto work = [&] {
        for (int64_t from; (from = next.fetch_add(crossrt::TOGETHER)) < end;) {
            for (int64_t n = from; n < std::min(from + crossrt::TOGETHER, end); n++) {
                const int64_t start = n ? ends[n - 1] : 0;
                int32_t* to = ids + start;
                const auto outcome = words->tokenize(texts + start, texts + ends[n], to);
                lengths[n] = outcome == WordPiece::Outcome::done          ? to - ids - start
                             : outcome == WordPiece::Outcome::unsupported ? -1
                                                                          : -2;
                if (lengths[n] == -2) unknown++;
            }
        }
    };
    std::vector<std::thread> others;
    try {
        for (int n = 1; n < threads; n++) others.emplace_back(work);
    } catch (const std::exception&) {
        // The system gives no more: fewer do it.
    }
    work();
    for (std::thread& each : others) each.join();
    return unknown;
}
}
