//! Response files (`@FILE`): arguments kept in a file, for command lines that would be too long.

use crate::link::error::LinkError;

/// Replaces each `@FILE` of a command line by the arguments in the file. A file that cannot be opened stands for itself,
/// as with other linkers.
pub fn expand(arguments: &[String]) -> Result<Vec<String>, LinkError> {
    expand_nested(arguments, 0)
}

fn expand_nested(arguments: &[String], depth: usize) -> Result<Vec<String>, LinkError> {
    let mut expanded = Vec::new();
    for argument in arguments {
        let text = argument
            .strip_prefix('@')
            .and_then(|file| std::fs::read_to_string(file).ok());
        match text {
            None => expanded.push(argument.clone()),
            Some(_) if depth > 16 => {
                return Err(LinkError::option(
                    argument,
                    "response files name each other in a circle",
                ));
            }
            Some(text) => expanded.extend(expand_nested(&words(&text), depth + 1)?),
        }
    }
    Ok(expanded)
}

/// The words of a response file: separated by white space, with quotes and backslashes.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', _) => word.get_or_insert_default().extend(characters.next()),
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r");
        std::fs::write(&file, "-o 'a b' \"c\\\"d.o\"\n x\\ y.o @nowhere").unwrap();
        let argument = [format!("@{}", file.display())];
        let expected = ["-o", "a b", "c\"d.o", "x y.o", "@nowhere"];
        assert_eq!(expand(&argument).unwrap(), expected);
        std::fs::write(&file, &argument[0]).unwrap();
        let message = expand(&argument).unwrap_err().to_string();
        assert!(message.contains("circle"), "{message}");
    }
}
