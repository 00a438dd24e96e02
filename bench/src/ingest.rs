//! Placeholder until the store's measurements move in.
