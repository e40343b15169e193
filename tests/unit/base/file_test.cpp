#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "base/error.h"

namespace ring3 {
namespace {

namespace fs = std::filesystem;

class NewFileTest : public testing::Test {
 protected:
  NewFileTest() {
    std::string name = (fs::temp_directory_path() / "ring3-file-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~NewFileTest() override { fs::remove_all(folder_); }
  static std::string content(const fs::path& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  [[nodiscard]] long files() const { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator()); }

  fs::path folder_;
};

TEST_F(NewFileTest, AppearsOnlyWhenComplete) {
  const fs::path path = folder_ / "out";
  {
    NewFile file(path, "--out");
    EXPECT_TRUE(file.write("half"));
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_EQ(files(), 0);
  NewFile file(path, "--out");
  EXPECT_TRUE(file.write("whole"));
  EXPECT_TRUE(file.commit());
  EXPECT_EQ(content(path), "whole");
  EXPECT_EQ(files(), 1);
}

TEST_F(NewFileTest, ReplacesWhatIsThereWithItsPermissionsAndLinks) {
  const fs::path path = folder_ / "out";
  std::ofstream(path) << "old";
  ::chmod(path.c_str(), 0600);
  fs::create_symlink(path, folder_ / "link");
  {
    NewFile given_up(folder_ / "link", "--out");
    EXPECT_TRUE(given_up.write("new"));
  }
  EXPECT_EQ(content(path), "old");
  NewFile file(folder_ / "link", "--out");
  EXPECT_TRUE(file.write("new"));
  EXPECT_TRUE(file.commit());
  EXPECT_EQ(content(path), "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(NewFileTest, RefusedAtOnce) {
  EXPECT_THROW(NewFile(folder_ / "absent" / "out", "--out"), UserError);
  EXPECT_THROW(NewFile(folder_, "--out"), UserError);
  EXPECT_EQ(files(), 0);
}

}  // namespace
}  // namespace ring3
