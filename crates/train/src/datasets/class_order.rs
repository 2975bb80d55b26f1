//! The order of classes against torchvision's. Kindling orders folders as people count (2 before 10),
//! torchvision and timm as text (10 before 2). Where classes come with their names that makes no
//! difference; where weights come without names, it is the meaning of every logit.

/// The classes at the first index where the order of numbers differs from the order of text: (here,
/// torchvision's). None where both orders are one.
pub(crate) fn unlike_torchvision(classes: &[String]) -> Option<(&str, &str)> {
    let mut as_text: Vec<&str> = classes.iter().map(String::as_str).collect();
    as_text.sort_unstable();
    let natural = classes.is_sorted_by(|a, b| crate::datasets::listing::natural(a, b).is_le());
    let mut pairs = classes.iter().map(String::as_str).zip(as_text);
    if natural { pairs.find(|(here, there)| here != there) } else { None }
}

/// Whether the classes are called by the numbers of their logits, as `convert` calls them without a
/// list: such names say nothing.
pub(crate) fn is_numbering(classes: &[String]) -> bool {
    classes.iter().enumerate().all(|(index, class)| *class == index.to_string())
}

/// Notes for the user on the order of classes that belong to weights from elsewhere.
pub(crate) fn notes(classes: &[String]) -> Option<String> {
    let (here, there) = unlike_torchvision(classes)?;
    Some(format!(
        "the classes are ordered as numbers; torchvision and timm order folders as text, where `{there}` \
         has the index of `{here}`: give --classes in the order of the logits"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: the orders not compared.
    #[test]
    fn only_names_with_numbers_differ_from_torchvisions_order() {
        let list =
            |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        let numbers: Vec<String> = (0..12).map(|k| k.to_string()).collect();
        assert_eq!(unlike_torchvision(&numbers), Some(("2", "10")));
        assert!(is_numbering(&numbers) && !is_numbering(&list(&["1", "2"])));
        for names in [
            &["0", "1", "2"][..],
            &["cat", "dog"],
            &["n01", "n02", "n10"],
            &["0", "1", "10", "11", "2"],
        ] {
            assert_eq!(unlike_torchvision(&list(names)), None, "{names:?}");
        }
        assert_eq!(unlike_torchvision(&list(&["img9", "img10"])), Some(("img9", "img10")));
    }
}
