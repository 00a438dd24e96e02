//! Names as their authors wrote them: those that C++ and Rust compilers give are made from these.

/// The name in the source of what objects call `symbol`; nothing for one that is no such name.
fn in_source(symbol: &str) -> Option<String> {
    if let Ok(rust) = rustc_demangle::try_demangle(symbol) {
        // Without the digest that tells copies apart.
        return Some(format!("{rust:#}"));
    }
    // It would take other words for types.
    if !symbol.starts_with("_Z") {
        return None;
    }
    let parsed = cpp_demangle::Symbol::new(symbol).ok()?;
    parsed.demangle().ok()
}

/// How messages call `symbol`.
pub(super) fn shown(symbol: &str) -> String {
    in_source(symbol).unwrap_or_else(|| symbol.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_each_language_are_read() {
        for (symbol, name) in [
            ("_Z3fooi", "foo(int)"),
            ("_ZN2ns1C3getEv", "ns::C::get()"),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvCs1_5alpha4beta", "alpha::beta"),
            ("foo", "foo"),
            ("i", "i"),
            ("_Z", "_Z"),
            ("_ZTV1", "_ZTV1"),
        ] {
            assert_eq!(shown(symbol), name);
        }
    }

    proptest! {
        #[test]
        fn any_name_has_an_answer(name in "(_Z|_R)?[A-Za-z0-9_]{0,80}") {
            prop_assert!(!shown(&name).is_empty() || name.is_empty());
        }
    }
}
