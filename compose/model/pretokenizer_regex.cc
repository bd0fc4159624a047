// SPDX-License-Identifier: Apache-2.0
#include "compose/model/pretokenizer_regex.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/error.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace motet::model {
namespace {

using proto::Invalid;

constexpr size_t kMaxPattern = 16 << 10;
// Steps that a match may take: enough for any pattern that is linear.
constexpr uint64_t kMatchSteps = 1'000'000;
constexpr uint64_t kMatchStepsPerByte = 16;
constexpr size_t kJitStackBytes = 1 << 20;

// Letters and numbers of Unicode 15 to 16, which the stock library knows and
// PCRE2 of Debian 12 (Unicode 14) does not. Harmless where PCRE2 is newer.
constexpr absl::string_view kLaterLetters =
    R"(\x{1C89}-\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC})"
    R"(\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65}\x{10D6F}-\x{10D85})"
    R"(\x{10EC2}-\x{10EC4}\x{1123F}-\x{11240}\x{11380}-\x{11389}\x{1138B})"
    R"(\x{1138E}\x{11390}-\x{113B5}\x{113B7}\x{113D1}\x{113D3})"
    R"(\x{11BC0}-\x{11BE0}\x{11F02}\x{11F04}-\x{11F10}\x{11F12}-\x{11F33})"
    R"(\x{1342F}\x{13441}-\x{13446}\x{13460}-\x{143FA}\x{16100}-\x{1611D})"
    R"(\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155}\x{1DF25}-\x{1DF2A})"
    R"(\x{1E030}-\x{1E06D}\x{1E4D0}-\x{1E4EB}\x{1E5D0}-\x{1E5ED}\x{1E5F0})"
    R"(\x{2B739}\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})";
constexpr absl::string_view kLaterDigits =
    R"(\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9})"
    R"(\x{11F50}-\x{11F59}\x{16130}-\x{16139}\x{16D70}-\x{16D79})"
    R"(\x{1CCF0}-\x{1CCF9}\x{1E4F0}-\x{1E4F9}\x{1E5F1}-\x{1E5FA})";
constexpr absl::string_view kLaterOtherNumbers = R"(\x{1D2C0}-\x{1D2D3})";

std::string LaterMembers(absl::string_view category) {
  if (category == "L") return std::string(kLaterLetters);
  if (category == "Nd") return std::string(kLaterDigits);
  if (category == "No") return std::string(kLaterOtherNumbers);
  if (category == "N") return absl::StrCat(kLaterDigits, kLaterOtherNumbers);
  return "";
}

// Walks an Oniguruma pattern and writes PCRE2's.
class Translator {
 public:
  explicit Translator(absl::string_view from) : from_(from) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < from_.size()) {
      const char c = from_[at_];
      absl::Status status;
      if (c == '\\') {
        status = Escape();
      } else if (in_class_) {
        status = InClass(c);
      } else {
        status = Outside(c);
      }
      if (!status.ok()) return status;
    }
    return to_;
  }

 private:
  absl::Status Refuse(absl::string_view what) const {
    return Invalid("tokenizer.json pre_tokenizer",
                   absl::StrCat("a pattern with ", what),
                   "groups, classes, alternatives, repeats, look-arounds, "
                   "\\s \\S \\d \\D and \\p{general category}",
                   "use another tokenizer");
  }
  void Copy(size_t n) {
    absl::StrAppend(&to_, from_.substr(at_, n));
    at_ += n;
  }

  absl::Status Outside(char c) {
    const absl::string_view rest = from_.substr(at_);
    if (c == '^' || c == '$') {
      return Refuse(absl::StrCat("the anchor ", from_.substr(at_, 1)));
    }
    if (c == '[') {
      in_class_ = true;
      Copy(absl::StartsWith(rest, "[^") ? 2 : 1);
      class_start_ = at_;
      return absl::OkStatus();
    }
    if (c == '(' && rest.size() > 1 && rest[1] == '*') {
      return Refuse("(*");
    }
    if (absl::StartsWith(rest, "(?")) {
      for (absl::string_view group :
           {"(?:", "(?i:", "(?i)", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
        // In the middle the two disagree on how far (?i) reaches.
        if (group == "(?i)" && at_ > 0) continue;
        if (absl::StartsWith(rest, group)) {
          Copy(group.size());
          return absl::OkStatus();
        }
      }
      return Refuse(absl::StrCat("the group ", rest.substr(0, 4)));
    }
    // Oniguruma reads {n}+ as a repeated repeat and {,n} as {0,n}.
    if (absl::StartsWith(rest, "{,") || absl::StartsWith(rest, "}+")) {
      return Refuse(rest.substr(0, 2));
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status InClass(char c) {
    if (c == '[') return Refuse("[ inside a class");
    if (absl::StartsWith(from_.substr(at_), "&&")) {
      return Refuse("&& inside a class");
    }
    if (c == ']') {
      if (at_ == class_start_) return Refuse("an empty class");
      in_class_ = false;
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (at_ + 1 >= from_.size()) return Refuse("\\ at its end");
    const char c = from_[at_ + 1];
    switch (c) {
      case 's':
      case 'S':
        // PCRE2's own \s has U+180E besides.
        to_ += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
        at_ += 2;
        return absl::OkStatus();
      case 'd':
      case 'D':
        return Category("Nd", c == 'D', 2);
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'v':
        if (c == 'v') {  // a vertical tab there, any line break here
          to_ += "\\x0B";
          at_ += 2;
        } else {
          Copy(2);
        }
        return absl::OkStatus();
      case 'p':
      case 'P':
        return Property(c == 'P');
      case 'x':
      case 'u':
        return CodePoint(c);
      default:
        if (!absl::ascii_ispunct(static_cast<unsigned char>(c)) && c != ' ') {
          return Refuse(absl::StrCat("\\", from_.substr(at_ + 1, 1)));
        }
        Copy(2);
        return absl::OkStatus();
    }
  }

  absl::Status Property(bool negated) {
    static const auto* const kCategories =
        new absl::flat_hash_set<absl::string_view>(
            {"L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N",
             "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
             "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc",
             "Cf", "Co"});
    const size_t close = from_.find('}', at_);
    if (from_.substr(at_ + 2, 1) != "{" || close == absl::string_view::npos) {
      return Refuse("\\p without {}");
    }
    const absl::string_view name = from_.substr(at_ + 3, close - at_ - 3);
    if (!kCategories->contains(name)) {
      return Refuse(absl::StrCat("\\p{", name.substr(0, 20), "}"));
    }
    return Category(name, negated, close + 1 - at_);
  }

  // Writes a general category in place of the next n bytes.
  absl::Status Category(absl::string_view name, bool negated, size_t n) {
    const std::string plain = absl::StrCat("\\p{", name, "}");
    const std::string later = LaterMembers(name);
    if (!in_class_) {
      absl::StrAppend(&to_, negated ? "[^" : "[", plain, later, "]");
    } else if (at_ > class_start_ + 1 && from_[at_ - 1] == '-' &&
               from_[at_ - 2] != '\\') {
      return Refuse("a range that ends in a category");
    } else {
      // A negated category cannot lose members inside a class: the later
      // characters are then taken as PCRE2 knows them.
      absl::StrAppend(&to_, negated ? absl::StrCat("\\P{", name, "}")
                                    : absl::StrCat(later, plain));
    }
    at_ += n;
    return absl::OkStatus();
  }

  // \xHH, \x{H...}, \uHHHH.
  absl::Status CodePoint(char kind) {
    const bool braces = from_.substr(at_ + 2, 1) == "{";
    const size_t digits_at = at_ + (braces ? 3 : 2);
    size_t n = 0;
    const size_t most = braces ? 6 : kind == 'u' ? 4 : 2;
    while (n < most && digits_at + n < from_.size() &&
           absl::ascii_isxdigit(
               static_cast<unsigned char>(from_[digits_at + n]))) {
      ++n;
    }
    const bool closed =
        !braces || (kind == 'x' && from_.substr(digits_at + n, 1) == "}");
    if (n == 0 || !closed || (!braces && n != most)) {
      return Refuse(absl::StrCat("a malformed \\", std::string(1, kind)));
    }
    absl::StrAppend(&to_, "\\x{", from_.substr(digits_at, n), "}");
    at_ = digits_at + n + (braces ? 1 : 0);
    return absl::OkStatus();
  }

  absl::string_view from_;
  std::string to_;
  size_t at_ = 0, class_start_ = 0;
  bool in_class_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Regex>> Regex::Compile(
    absl::string_view pattern) {
  if (pattern.empty() || pattern.size() > kMaxPattern) {
    return Invalid("tokenizer.json pre_tokenizer",
                   absl::StrCat("a pattern of ", pattern.size(), " bytes"),
                   absl::StrCat("1 to ", kMaxPattern));
  }
  MOTET_ASSIGN_OR_RETURN(const std::string text, Translator(pattern).Run());
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
      nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    return Invalid("tokenizer.json pre_tokenizer",
                   absl::StrCat("a pattern with this error: ",
                                reinterpret_cast<const char*>(message)),
                   "a regular expression");
  }
  // Where the machine forbids it, the interpreter serves.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return std::unique_ptr<Regex>(new Regex(code));
}

Regex::~Regex() { pcre2_code_free(code_); }

Matcher::Matcher()
    : data_(pcre2_match_data_create(1, nullptr)),
      context_(pcre2_match_context_create(nullptr)),
      stack_(pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr)) {
  pcre2_jit_stack_assign(context_, nullptr, stack_);
}

Matcher::~Matcher() {
  pcre2_jit_stack_free(stack_);
  pcre2_match_context_free(context_);
  pcre2_match_data_free(data_);
}

Matcher::Result Matcher::Find(const Regex& regex, absl::string_view text,
                              size_t from, size_t& begin, size_t& end) {
  pcre2_set_match_limit(
      context_, static_cast<uint32_t>(std::min<uint64_t>(
                    kMatchSteps + kMatchStepsPerByte * text.size(),
                    UINT32_MAX)));
  const int rc =
      pcre2_match(regex.code_, reinterpret_cast<PCRE2_SPTR>(text.data()),
                  text.size(), from, PCRE2_NO_UTF_CHECK, data_, context_);
  if (rc < 0) {
    return rc == PCRE2_ERROR_NOMATCH ? Result::kNone : Result::kTooMuch;
  }
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data_);
  begin = range[0];
  end = range[1];
  return Result::kFound;
}

}  // namespace motet::model
