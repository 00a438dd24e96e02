//! Nothing: this package only fixes the versions of the C sources.
