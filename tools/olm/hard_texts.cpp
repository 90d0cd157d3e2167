#include "tools/olm/hard_texts.h"

namespace olm::tools {

const std::vector<std::string>& hard_texts() {
  using namespace std::string_literals;
  static const std::vector<std::string> texts = {
      "",
      " ",
      "  ",
      "\n",
      "\n\n\n",
      "\t\t  \t",
      "Hello, world!",
      " Hello",
      "Hello ",
      "  two spaces,   three   and\n a line \n  with spaces \n\n\nat its ends  ",
      "tab\tand\r\nreturn\rand\vvertical\f.",
      "I'm you're he'll we've they'd it's IT'S I'M ''s 's' don\xe2\x80\x99t",
      "1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 12ab ab12 \xd9\xa1\xd9\xa2\xd9\xa3 "
      "\xc2\xbd \xe2\x85\xa7",
      "!!! ... --- ??? #@$%^&*() <<>> [[]] {{}} \"quoted\" `code` a/b\\c",
      "for (int i = 0; i < n; ++i) {\n    x[i] += y[i] * 2.0f;  // sum\n}\n",
      "def f(x):\n\treturn {'a': [1, 2], \"b\": None}\n\n\n\nprint(f(3))",
      "CamelCase snake_case kebab-case SCREAMING_CASE iPhone eBay McDonald's A B C ABC aBC",
      // Accents as one character and as two, and marks that follow one another.
      "caf\xc3\xa9 cafe\xcc\x81 na\xc3\xafve \xe2\x84\xab A\xcc\x8a o\xcc\x88\xcc\x81\xcc\xa7",
      "stra\xc3\x9f"
      "e STRASSE \xc4\xb0stanbul \xc4\xb1\xc5\xbf\xef\xac\x81\xef\xac\x82 \xc7\x86",
      "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82, \xd0\xbc\xd0\xb8\xd1\x80! "
      "\xce\xb1\xce\xb2\xce\xb3\xce\xac",
      "\xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c\xe4\xb8\x96\xe7\x95\x8c\xe3\x80\x82 "
      "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe3\x81\xae\xe3\x83\x86\xe3\x82\xad\xe3\x82\xb9\xe3\x83"
      "\x88 \xed\x95\x9c\xea\xb5\xad\xec\x96\xb4",
      "\xd8\xa7\xd9\x84\xd8\xb3\xd9\x84\xd8\xa7\xd9\x85 \xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d "
      "\xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8\xe0\xa5\x8d\xe0\xa4\xa4\xe0\xa5\x87 "
      "\xe0\xb8\xaa\xe0\xb8\xa7\xe0\xb8\xb1\xe0\xb8\xaa\xe0\xb8\x94\xe0\xb8\xb5",
      // A family joined by U+200D, a flag, a skin tone, an emoji beyond many vocabularies.
      "\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7 "
      "\xf0\x9f\x87\xa9\xf0"
      "\x9f\x87\xaa \xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd \xf0\x9f\xab\xa0",
      // Spaces that are no ASCII space, U+2581, a byte-order mark, U+FFFD, private use.
      "a\xc2\xa0"
      "b\xe2\x80\x83"
      "c\xe2\x80\x8b"
      "d\xe3\x80\x80"
      "e \xe2\x96\x81under\xe2\x96\x81\xe2\x96\x81 \xef\xbb\xbfmark \xef\xbf\xbd \xee\x80\x80",
      "nul\0and \x01\x04\x1b control \x7f"s,
      "<|endoftext|> <s>bos</s> <unk> <pad> [INST] <|im_start|>user\n<0x0A> </s",
      "\xf0\x9d\x95\x92\xf0\x9d\x95\x93 \xf0\xa0\x80\x80 \xf0\x90\x8d\x88 \xf3\xa0\x80\xa1 "
      "\xea\x99\xae",
      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
      "a",
      "In the beginning God created the heaven and the earth. And the earth was without form, and "
      "void; and darkness was upon the face of the deep.",
  };
  return texts;
}

}  // namespace olm::tools
