//! What tests share: real data if there is any, and never a silent pass.
