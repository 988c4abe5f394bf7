fn placeholder(_: &std::path::Path) {}
testkit::real_data_tests!(placeholder);
