//! Reads what a header declares, as the C preprocessor gives it: structs, enums, constants, functions.
//!
//! It is no C compiler. It knows how pycrew.h and bridge.h are written; what it does not understand is left
//! out, and named, so that only who uses it notices. That it understood the rest as C does is what the
//! test `layouts_and_constants_are_those_of_c` says.

use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub rust: String, // its type
}

#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    pub parameters: Vec<Variable>,
    pub variadic: bool,
    pub result: String, // empty: void
}

#[derive(Default)]
pub struct Header {
    pub structs: Vec<(String, Vec<Variable>)>,
    pub opaque: Vec<String>,
    pub aliases: Vec<(String, String)>,
    pub constants: Vec<(String, String, i64)>, // name, type, value
    pub functions: Vec<Function>,
    pub left_out: Vec<String>,
    values: BTreeMap<String, i64>,
}

type Parsed<T> = Result<T, String>;

impl Function {
    pub fn pointer(&self) -> String {
        let mut parts: Vec<String> = self.parameters.iter().map(|p| p.rust.clone()).collect();
        if self.variadic {
            parts.push("...".into());
        }
        format!("unsafe extern \"C\" fn({}){}", parts.join(", "), self.arrow())
    }

    pub fn arrow(&self) -> String {
        if self.result.is_empty() {
            String::new()
        } else {
            format!(" -> {}", self.result)
        }
    }
}

// ---- tokens ----

fn tokens(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;

    while at < bytes.len() {
        let start = at;
        if bytes[at].is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' {
            while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                at += 1;
            }
        } else if bytes[at] == b'"' {
            at += 1 + text[at + 1..].find('"').map_or(0, |end| end + 1);
        } else if text[at..].starts_with("...") {
            at += 3;
        } else {
            at += 1;
        }
        found.push(text[start..at].to_string());
    }
    found
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// The token behind the bracket that closes the one at `at`.
fn behind_bracket(tokens: &[String], at: usize) -> usize {
    let mut depth = 0;

    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "(" | "{" | "[" => depth += 1,
            ")" | "}" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

fn without_attributes(tokens: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;

    while at < tokens.len() {
        match tokens[at].as_str() {
            "__attribute__" => at = behind_bracket(&tokens, at + 1),
            "__extension__" | "extern" => at += 1,
            _ => {
                kept.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// Cut at each `separator` that is in no bracket.
fn split(tokens: &[String], separator: &str) -> Vec<Vec<String>> {
    let mut parts = vec![Vec::new()];
    let mut depth = 0;

    for token in tokens {
        match token.as_str() {
            "(" | "{" | "[" => depth += 1,
            ")" | "}" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && token == separator {
            parts.push(Vec::new());
        } else {
            parts.last_mut().unwrap().push(token.clone());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

// ---- types ----

/// The type that a declaration begins with: what it is in Rust, whether it is const, and its tokens' number.
fn base_type(tokens: &[String]) -> Parsed<(String, bool, usize)> {
    let mut words = Vec::new();
    let mut constant = false;
    let mut named = false;
    let mut at = 0;

    while at < tokens.len() {
        match tokens[at].as_str() {
            "const" => constant = true,
            "struct" | "enum" => {}
            word @ ("unsigned" | "signed" | "char" | "short" | "int" | "long" | "float" | "double"
            | "void" | "_Bool" | "bool") => words.push(word.to_string()),
            word if is_name(word) && words.is_empty() && !named => {
                words.push(word.to_string());
                named = true;
            }
            _ => break,
        }
        at += 1;
    }
    let words = words.join(" ");
    let rust = match words.as_str() {
        "" => return Err("no type".into()),
        "void" => "c_void",
        "char" => "c_char",
        "int" => "c_int",
        "unsigned" | "unsigned int" => "c_uint",
        "long" => "c_long",
        "unsigned long" => "c_ulong",
        "long long" => "c_longlong",
        "unsigned long long" => "c_ulonglong",
        "float" => "f32",
        "double" => "f64",
        "bool" | "_Bool" => "bool",
        "size_t" => "usize",
        "ptrdiff_t" => "isize",
        "int8_t" => "i8",
        "int16_t" => "i16",
        "int32_t" => "i32",
        "int64_t" => "i64",
        "uint8_t" => "u8",
        "uint16_t" => "u16",
        "uint32_t" => "u32",
        "uint64_t" => "u64",
        other => other,
    };
    if rust.contains(' ') {
        return Err(format!("type {rust}"));
    }
    Ok((rust.to_string(), constant, at))
}

impl Header {
    /// `*name[3]`, `(*name)(int)` or `name`, of a base type; an array parameter is a pointer.
    fn declarator(
        &self,
        base: &str,
        mut constant: bool,
        tokens: &[String],
        parameter: bool,
    ) -> Parsed<Variable> {
        let mut rust = base.to_string();
        let mut at = 0;

        while at < tokens.len() && tokens[at] == "*" {
            rust = format!("*{} {rust}", if constant { "const" } else { "mut" });
            constant = false;
            at += 1;
            while at < tokens.len() && (tokens[at] == "const" || tokens[at] == "restrict") {
                constant |= tokens[at] == "const";
                at += 1;
            }
        }
        if at < tokens.len() && tokens[at] == "(" {
            let function = self.function_pointer(&rust, &tokens[at..])?;
            return Ok(Variable { rust: format!("Option<{}>", function.pointer()), name: function.name });
        }
        let name = tokens.get(at).filter(|token| is_name(token)).cloned().unwrap_or_default();
        at += usize::from(!name.is_empty());
        match &tokens[at..] {
            [] => {}
            [open, .., close] if open == "[" && close == "]" && parameter => {
                rust = format!("*{} {rust}", if constant { "const" } else { "mut" });
            }
            [open, length, close] if open == "[" && close == "]" => {
                rust = format!("[{rust}; {}]", self.value(std::slice::from_ref(length))?);
            }
            _ => return Err("declarator".into()),
        }
        if rust == "c_void" {
            return Err("void".into());
        }
        Ok(Variable { name, rust })
    }

    /// `(*name)(parameters)`
    fn function_pointer(&self, result: &str, tokens: &[String]) -> Parsed<Function> {
        let inner = behind_bracket(tokens, 0);
        match &tokens[..inner] {
            [_, star, name, _] if star == "*" && is_name(name) => {
                self.function(name, result, &tokens[inner..])
            }
            _ => Err("function pointer".into()),
        }
    }

    /// Its parameters stand in the brackets that `tokens` begins with.
    fn function(&self, name: &str, result: &str, tokens: &[String]) -> Parsed<Function> {
        if tokens.first().map(String::as_str) != Some("(") || behind_bracket(tokens, 0) != tokens.len() {
            return Err("function".into());
        }
        let mut function = Function {
            name: name.into(),
            parameters: Vec::new(),
            variadic: false,
            result: if result == "c_void" { String::new() } else { result.into() },
        };
        let inside = &tokens[1..tokens.len() - 1];
        if inside == ["void"] {
            return Ok(function);
        }
        for part in split(inside, ",") {
            if part == ["..."] {
                function.variadic = true;
                continue;
            }
            let (base, constant, at) = base_type(&part)?;
            let mut parameter = self.declarator(&base, constant, &part[at..], true)?;
            if parameter.name.is_empty() {
                parameter.name = format!("argument{}", function.parameters.len());
            }
            function.parameters.push(parameter);
        }
        Ok(function)
    }

    fn fields(&self, tokens: &[String]) -> Parsed<Vec<Variable>> {
        let mut fields = Vec::new();

        for line in split(tokens, ";") {
            let (base, constant, at) = base_type(&line)?;
            for part in split(&line[at..], ",") {
                fields.push(self.declarator(&base, constant, &part, false)?);
            }
        }
        Ok(fields)
    }

    // ---- constants ----

    /// A number, perhaps negative, in brackets, or a constant's name.
    fn value(&self, tokens: &[String]) -> Parsed<i64> {
        let words: Vec<&str> = tokens.iter().map(String::as_str).filter(|t| *t != "(" && *t != ")").collect();
        let number = |text: &str| -> Parsed<i64> {
            self.values.get(text).copied().ok_or(()).or_else(|()| {
                let digits = text.trim_end_matches(|c| matches!(c, 'u' | 'U' | 'l' | 'L'));
                digits.parse().map_err(|_| format!("value {text}"))
            })
        };
        match words[..] {
            [word] => number(word),
            ["-", word] => number(word).map(|value| -value),
            _ => Err("value".into()),
        }
    }

    fn add_constant(&mut self, name: &str, rust: &str, value: i64) {
        self.values.insert(name.into(), value);
        self.constants.push((name.into(), rust.into(), value));
    }

    fn enumerators(&mut self, tokens: &[String]) -> Parsed<()> {
        let mut next = 0;

        for part in split(tokens, ",") {
            match &part[..] {
                [_] => {}
                [_, equals, value @ ..] if equals == "=" => next = self.value(value)?,
                _ => return Err("enumerator".into()),
            }
            self.add_constant(&part[0], "c_int", next);
            next += 1;
        }
        Ok(())
    }

    /// `#define NAME 3` or `((int64_t)-1)`; others are none of ours.
    fn macro_constant(&mut self, name: &str, body: &str) {
        let words: Vec<String> = tokens(body).into_iter().filter(|t| t != "(" && t != ")").collect();
        let (rust, number) = match words.first().map(|word| word.ends_with("_t")) {
            Some(true) => match base_type(&words[..1]) {
                Ok((rust, _, _)) => (rust, &words[1..]),
                Err(_) => return,
            },
            _ => ("c_int".into(), &words[..]),
        };
        if let Ok(value) = self.value(number) {
            self.add_constant(name, &rust, value);
        }
    }

    // ---- declarations ----

    fn declaration(&mut self, tokens: &[String]) -> Parsed<()> {
        let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
        match words[..] {
            ["typedef", "struct", tag, name] if tag == name => self.opaque.push(tag.into()),
            ["struct", tag] => self.opaque.push(tag.into()),
            ["typedef", "struct", tag, "{", .., "}", name] if tag == name => {
                let fields = self.fields(&tokens[4..tokens.len() - 2])?;
                self.structs.push((tag.into(), fields));
            }
            ["struct", tag, "{", .., "}"] => {
                let fields = self.fields(&tokens[3..tokens.len() - 1])?;
                self.structs.push((tag.into(), fields));
            }
            ["enum", "{", .., "}"] => self.enumerators(&tokens[2..tokens.len() - 1])?,
            ["enum", _, "{", .., "}"] => self.enumerators(&tokens[3..tokens.len() - 1])?,
            ["typedef", "enum", _, "{", .., "}", name] => {
                self.enumerators(&tokens[4..tokens.len() - 2])?;
                self.aliases.push((name.into(), "c_uint".into()));
            }
            ["typedef", ..] => {
                let (base, constant, at) = base_type(&tokens[1..])?;
                let alias = self.declarator(&base, constant, &tokens[1 + at..], false)?;
                self.aliases.push((alias.name, alias.rust));
            }
            _ => {
                let open = words.iter().position(|word| *word == "(").ok_or("declaration")?;
                let (base, constant, at) = base_type(&tokens[..open])?;
                let result = self.declarator(&base, constant, &tokens[at..open - 1], true);
                let result = if at == open - 1 { base } else { result?.rust };
                self.functions.push(self.function(words[open - 1], &result, &tokens[open..])?);
            }
        }
        Ok(())
    }

    /// What the files that are `wanted` declare, of preprocessed text with line markers and macros (-E -dD).
    pub fn read(preprocessed: &str, wanted: impl Fn(&str) -> bool) -> Header {
        let mut header = Header::default();
        let mut text = String::new();
        let mut ours = false;
        let mut macros = Vec::new();

        for line in preprocessed.lines() {
            if let Some(marker) = line.strip_prefix("# ") {
                ours = marker.split('"').nth(1).map_or(false, &wanted);
            } else if let Some(definition) = line.strip_prefix("#define ").filter(|_| ours) {
                macros.extend(definition.split_once(' '));
            } else if ours && !line.starts_with('#') {
                text += line;
                text += "\n";
            }
        }
        for declaration in split(&without_attributes(tokens(&text)), ";") {
            if let Err(why) = header.declaration(&declaration) {
                header.left_out.push(format!("{why}: {}", declaration.join(" ")));
            }
        }
        for (name, body) in macros.into_iter().filter(|(name, _)| !name.contains('(')) {
            header.macro_constant(name, body);
        }
        header
    }
}
