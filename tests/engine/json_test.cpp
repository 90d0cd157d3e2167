#include <doctest/doctest.h>
#include <olm/engine/json.h>
#include <tests/support/temp_folder.h>

#include <cmath>
#include <limits>

using namespace olm;
using namespace olm::test;

TEST_SUITE("engine/json") {
  TEST_CASE("values keep their kind, exactness and order") {
    const std::string text =
        R"({"z":1,"a":[true,false,null,-9223372036854775808,18446744073709551615,0.1,1e+300,2.0],"s":"\"\\\n\u0001é😀"})";
    const Json json = Json::parse(text);
    CHECK(json.dump() == text);
    CHECK(Json::parse(json.dump(2)) == json);
    CHECK(json.members()[0].first == "z");
    const Json& a = json.at("a");
    CHECK(a.at(size_t(3)).as_int() == std::numeric_limits<int64_t>::min());
    CHECK(a.at(4).as_uint() == std::numeric_limits<uint64_t>::max());
    CHECK(a.at(5).as_double() == 0.1);
    CHECK(!a.at(7).is_integer());
    CHECK(json.at("z").as_double() == 1.0);
    CHECK(json.at("s").as_string() == "\"\\\n\x01é😀");
  }

  TEST_CASE("values are built by name") {
    Json json;
    json["b"] = 1;
    json["a"]["x"] = "text";
    json["list"].push_back(2.5);
    json["b"] = uint64_t(1) << 63;
    json["v"] = Json(std::vector<int64_t>{1, 2});
    CHECK(json.dump() == R"({"b":9223372036854775808,"a":{"x":"text"},"list":[2.5],"v":[1,2]})");
    CHECK(json.dump(1) ==
          "{\n \"b\": 9223372036854775808,\n \"a\": {\n  \"x\": \"text\"\n },\n"
          " \"list\": [\n  2.5\n ],\n \"v\": [\n  1,\n  2\n ]\n}");
    CHECK(Json::object().dump(2) == "{}");
    CHECK(Json(std::nan("")).dump() == "null");
    const std::string repaired = Json("a\xff\xc3").dump();
    CHECK(repaired == "\"a\ufffd\ufffd\"");
    CHECK(Json::parse(repaired, "repaired").dump() == repaired);
  }

  TEST_CASE("asking for what is not there names what is") {
    const Json json = Json::parse(R"({"a":"x","n":-1,"big":18446744073709551615})");
    auto message = [](auto&& run) { return message_of<Error>(run); };
    CHECK(message([&] { json.at("a").as_int(); }) ==
          "json: an integer was wanted, the value is a string");
    CHECK(contains(message([&] { json.at("b"); }), "\"b\" is missing"));
    CHECK(contains(message([&] { json.at("n").as_uint(); }), "at least 0"));
    CHECK(contains(message([&] { json.at("big").as_int(); }), "too large"));
    CHECK(contains(message([&] { json.items(); }), "an array was wanted, the value is an object"));
    CHECK(contains(message([&] { Json::parse("[1]").at(1); }), "item 1 of an array of 1"));
    CHECK(json.find("b") == nullptr);
  }

  TEST_CASE("broken texts name line and offset") {
    auto message = [](std::string_view text) {
      return message_of<Error>([&] { Json::parse(text, "x.json"); });
    };
    CHECK(contains(message("{\n \"a\": }"), "x.json: not valid JSON at line 2, byte offset 8: "));
    using namespace std::string_view_literals;
    for (const std::string_view ends : {"{}\0"sv, "{}\0 more"sv, "[]\n\0\0"sv})
      CHECK(contains(message(ends), "a byte of value 0"));
    for (const char* text : {"", "{", "[1,", "nul", "\"abc", "{\"a\" 1}", "[1] 2", "\x01", "1.",
                             "-", "\"\xff\"", "\"\\ud800\"", "{1:2}", "[\"a\nb\"]", "1e999"})
      CHECK_MESSAGE(contains(message(text), "x.json: "), text);
    CHECK(contains(message(R"({"a":1,"a":2})"), "\"a\" comes twice"));
  }

  TEST_CASE("hostile nesting is refused without recursion") {
    const std::string deep(1'000'000, '['), objects = [] {
      std::string text;
      for (int i = 0; i < 100'000; ++i) text += "{\"a\":";
      return text;
    }();
    CHECK_THROWS_AS(Json::parse(deep), Error);
    CHECK_THROWS_AS(Json::parse(objects), Error);
    const std::string fits = std::string(256, '[') + std::string(256, ']');
    CHECK(Json::parse(fits).dump() == fits);
  }

  TEST_CASE("files are written with a newline and read with their name in errors") {
    const TempFolder folder;
    write_json(folder / "a.json", Json::parse("{\"a\":[1]}"));
    CHECK(read_json(folder / "a.json").at("a").at(size_t(0)).as_int() == 1);
    folder.file("bad.json", "{");
    CHECK(contains(message_of<FileError>([&] { read_json(folder / "bad.json"); }),
                   (folder / "bad.json") + ": not valid JSON"));
  }
}
