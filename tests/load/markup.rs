//! A reader of HTML that is written so that each element is closed.

/// The elements of a page, in their order.
pub(crate) struct Markup {
    elements: Vec<Element>,
}

struct Element {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Markup {
    /// # Errors
    /// What is not closed, not opened, or not quoted.
    pub(crate) fn read(page: &str) -> Result<Self, String> {
        let mut rest = page
            .strip_prefix("<!DOCTYPE html>\n")
            .ok_or("no document type")?;
        let mut elements = Vec::new();
        let mut open: Vec<String> = Vec::new();
        while let Some((text, behind)) = rest.split_once('<') {
            is_text(text)?;
            if open.is_empty() && !text.trim().is_empty() {
                return Err(format!("{text:?} is outside of the document"));
            }
            let (tag, behind) = behind.split_once('>').ok_or("a tag without end")?;
            rest = behind;
            if let Some(name) = tag.strip_prefix('/') {
                let last = open.pop();
                if last.as_deref() != Some(name) {
                    return Err(format!("</{name}> closes {last:?}"));
                }
                continue;
            }
            let closed = tag.strip_suffix('/');
            let element = element(closed.unwrap_or(tag))?;
            if closed.is_none() {
                open.push(element.name.clone());
            }
            elements.push(element);
        }
        is_text(rest)?;
        match open.is_empty() && rest.trim().is_empty() && !elements.is_empty() {
            true => Ok(Self { elements }),
            false => Err(format!("left open: {open:?}; behind the end: {rest:?}")),
        }
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        let elements = self.elements.iter();
        elements.filter(|element| element.name == name).count()
    }

    /// The values of an attribute of all elements of this name.
    pub(crate) fn values<'a>(
        &'a self,
        name: &'a str,
        attribute: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        let elements = self.elements.iter();
        let named = elements.filter(move |element| element.name == name);
        let all = named.flat_map(|element| &element.attributes);
        let wanted = all.filter(move |(known, _)| known == attribute);
        wanted.map(|(_, value)| value.as_str())
    }
}

fn element(tag: &str) -> Result<Element, String> {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    let is_name = |text: &str| {
        let mut chars = text.chars();
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-';
        chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.all(known)
    };
    let mut attributes = Vec::new();
    while !rest.trim().is_empty() {
        let wrong = || format!("<{tag}> has an attribute that is none");
        let (key, value) = rest.trim_start().split_once("=\"").ok_or_else(wrong)?;
        let (value, behind) = value.split_once('"').ok_or_else(wrong)?;
        is_text(value)?;
        if !is_name(key) {
            return Err(wrong());
        }
        attributes.push((key.to_owned(), value.to_owned()));
        rest = behind;
    }
    if !is_name(name) {
        return Err(format!("<{tag}> has no name"));
    }
    let name = name.to_owned();
    Ok(Element { name, attributes })
}

/// Each `&` begins one of the names that the page uses.
fn is_text(text: &str) -> Result<(), String> {
    let mut parts = text.split('&').skip(1);
    let known = |part: &str| {
        let names = ["amp;", "lt;", "gt;", "quot;"];
        names.iter().any(|name| part.starts_with(name))
    };
    match text.contains('>') || !parts.all(known) {
        true => Err(format!("{text:?} is not escaped")),
        false => Ok(()),
    }
}

#[test]
fn what_is_not_well_formed_is_seen() {
    let page = |body: &str| format!("<!DOCTYPE html>\n<html>{body}</html>\n");
    assert!(Markup::read(&page("<p class=\"x\">a &lt; b<br/></p>")).is_ok());
    for body in [
        "<p>",
        "</p>",
        "<p></b></p>",
        "a & b",
        "a > b",
        "<p x=y></p>",
        "<p x=\"y></p>",
    ] {
        assert!(Markup::read(&page(body)).is_err(), "{body}");
    }
    assert!(Markup::read("<html></html>").is_err());
}
