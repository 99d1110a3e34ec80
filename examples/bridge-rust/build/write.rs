//! Writes what a header declares as Rust.

use crate::header::{Function, Header, Variable};
use std::fmt::Write;

/// A name that Rust has for itself is written so.
fn identifier(name: &str) -> String {
    match name {
        "type" | "fn" | "loop" | "in" | "ref" | "move" | "match" | "use" | "impl" | "let" | "mod" | "mut"
        | "pub" | "trait" | "where" | "async" | "await" | "dyn" | "final" | "box" | "yield" | "try" => {
            format!("r#{name}")
        }
        _ => name.into(),
    }
}

fn list(variables: &[Variable]) -> String {
    let parts: Vec<String> =
        variables.iter().map(|v| format!("{}: {}", identifier(&v.name), v.rust)).collect();
    parts.join(", ")
}

fn opaque(out: &mut String, name: &str) {
    // Neither made, moved nor looked into by Rust; and no thread may have it unless someone says why.
    writeln!(
        out,
        "#[repr(C)]\npub struct {name} {{\n    _nothing: [u8; 0],\n    _marker: PhantomData<(*mut u8, PhantomPinned)>,\n}}"
    )
    .unwrap();
}

pub fn structs(header: &Header) -> String {
    let mut out = String::new();

    for (name, fields) in &header.structs {
        writeln!(out, "#[repr(C)]\n#[derive(Clone, Copy)]\npub struct {name} {{").unwrap();
        for field in fields {
            writeln!(out, "    pub {}: {},", identifier(&field.name), field.rust).unwrap();
        }
        out += "}\n";
    }
    out
}

fn declare(out: &mut String, function: &Function) {
    let mut parameters = list(&function.parameters);
    if function.variadic {
        parameters += ", ...";
    }
    writeln!(out, "    pub fn {}({parameters}){};", function.name, function.arrow()).unwrap();
}

/// All of a library's header.
pub fn declarations(header: &Header) -> String {
    let mut out = String::new();

    for name in header.opaque.iter().filter(|name| !header.structs.iter().any(|(other, _)| other == *name)) {
        opaque(&mut out, name);
    }
    out += &structs(header);
    for (name, rust) in &header.aliases {
        writeln!(out, "pub type {name} = {rust};").unwrap();
    }
    for (name, rust, value) in &header.constants {
        writeln!(out, "pub const {name}: {rust} = {value};").unwrap();
    }
    out += "#[link(name = \"pycrew\")]\nextern \"C\" {\n";
    for function in &header.functions {
        declare(&mut out, function);
    }
    out += "}\n";
    for line in &header.left_out {
        writeln!(out, "// left out: {line}").unwrap();
    }
    out
}

/// errno's numbers, which Rust's library does not have.
pub fn errno(preprocessed: &str) -> String {
    let mut out = String::new();

    for line in preprocessed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["#define", name, number] = words[..] {
            if name.starts_with('E') && number.parse::<i32>().is_ok() {
                writeln!(out, "pub const {name}: c_int = {number};").unwrap();
            }
        }
    }
    out
}

/// `int python_add(int a, int b, int *ret)` calls math_ops:add with a and b, and stores what it returns.
fn export(out: &mut String, function: &Function, module: &str, name: &str) {
    let (inputs, ret) = match function.parameters.split_last() {
        Some((last, inputs)) if last.name == "ret" => (inputs, "ret"),
        _ => (&function.parameters[..], "&mut ()"),
    };
    let arguments: String = inputs.iter().map(|v| format!("{}, ", identifier(&v.name))).collect();

    writeln!(
        out,
        "/// # Safety\n/// As bridge.h says.\n#[no_mangle]\npub unsafe extern \"C\" fn {}({}){} {{\n    \
         unsafe {{ answer({ret}, |crew| crew.run(\"{module}:{name}\", ({arguments}))) }}\n}}",
        function.name,
        list(&function.parameters),
        function.arrow()
    )
    .unwrap();
}

/// The functions of bridge.h: those of the module made, and those written by hand (open, close,
/// last_error) held against it.
pub fn exports(header: &Header, module: &str) -> String {
    let mut out = String::new();

    for function in &header.functions {
        match function.name.strip_prefix("python_") {
            Some("open" | "close" | "last_error") => {
                writeln!(out, "const _: {} = {};", function.pointer(), function.name).unwrap();
            }
            Some(name) => export(&mut out, function, module, name),
            None => {}
        }
    }
    assert!(header.left_out.is_empty(), "bridge.h: {}", header.left_out.join("\n"));
    out
}

/// LAYOUT has a name and a number for each constant, and for each struct's size and fields' offsets and sizes;
/// LAYOUT_C is a program that prints the same.
pub fn layout(headers: &[(&str, &Header)]) -> String {
    let mut rust =
        String::from("pub fn layout() -> Vec<(&'static str, i128)> {\n    let mut all = Vec::new();\n");
    let mut c = String::from("#include <stddef.h>\n#include <stdio.h>\n");
    let mut body = String::new();
    let mut line = |text: &str, number: &str| {
        writeln!(body, "    printf(\"{text} %lld\\n\", (long long)({number}));").unwrap();
    };

    for (file, header) in headers {
        writeln!(c, "#include <{file}>").unwrap();
        for (name, _, _) in &header.constants {
            writeln!(rust, "    all.push((\"{name}\", i128::from({name})));").unwrap();
            line(name, name);
        }
        for (name, fields) in &header.structs {
            let tag = format!("struct {name}");
            writeln!(rust, "    all.push((\"{name}\", std::mem::size_of::<{name}>() as i128));").unwrap();
            line(name, &format!("sizeof({tag})"));
            for field in fields {
                let (plain, raw) = (&field.name, identifier(&field.name));
                writeln!(
                    rust,
                    "    {{\n        let place = std::mem::MaybeUninit::<{name}>::uninit();\n        \
                     let at = place.as_ptr();\n        \
                     let field = unsafe {{ std::ptr::addr_of!((*at).{raw}) }};\n        \
                     all.push((\"{name}.{plain}\", field as usize as i128 - at as usize as i128));\n        \
                     all.push((\"{name}.{plain} size\", std::mem::size_of::<{}>() as i128));\n    }}",
                    field.rust
                )
                .unwrap();
                line(&format!("{name}.{plain}"), &format!("offsetof({tag}, {plain})"));
                line(&format!("{name}.{plain} size"), &format!("sizeof(({tag} *)0)->{plain}"));
            }
        }
    }
    rust += "    all\n}\n";
    format!("{rust}pub const LAYOUT_C: &str = r#\"{c}int main(void)\n{{\n{body}    return 0;\n}}\n\"#;\n")
}
