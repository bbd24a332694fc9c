//! Sentences without their figures, so that two looks can be compared by what they say.

/// The same text with `#` in place of each number, and without the unit of an estimated time. How
/// many pods are Ready is no figure: it changes with the pods, not with each look at the metrics.
pub(crate) fn without_figures(text: &str) -> String {
    let sentences = text.split(". ").map(|sentence| {
        if sentence.contains(" pods are Ready") {
            sentence.to_owned()
        } else {
            masked(sentence)
        }
    });
    sentences.collect::<Vec<_>>().join(". ")
}

fn masked(sentence: &str) -> String {
    let mut out = String::new();
    let mut rest = sentence.chars().peekable();
    while let Some(next) = rest.next() {
        if !next.is_ascii_digit() {
            out.push(next);
            continue;
        }
        let in_number = |c: &char| c.is_ascii_digit() || matches!(c, '.' | ',');
        let mut last = next;
        while let Some(more) = rest.next_if(in_number) {
            last = more;
        }
        let is_estimate = out.ends_with("≈ ");
        out.push('#');
        if !last.is_ascii_digit() {
            out.push(last); // it ends a sentence or a clause
        }
        if is_estimate && rest.next_if_eq(&' ').is_some() {
            while rest.next_if(|c| c.is_alphabetic()).is_some() {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_make_no_difference_and_words_do() {
        let first = "0 errors in 1,020 canary requests (stable 0 of 2,580): the rate is below \
                     0.35 %; moving to 100 % needs below 0.1 %, about 65 more clean requests (≈ 54 \
                     s at this traffic).";
        let later = "0 errors in 40 canary requests (stable 0 of 7): the rate is below 9 %; moving \
                     to 100 % needs below 0.1 %, about 1,000 more clean requests (≈ 2 min at this \
                     traffic).";
        assert_eq!(without_figures(first), without_figures(later));
        let other = later.replace("is below 9 %", "is unknown");
        assert_ne!(without_figures(later), without_figures(&other));
        assert_eq!(without_figures("1.5 of 3. 2, 4."), "# of #. #, #.");
    }

    #[test]
    fn the_count_of_ready_pods_is_no_figure() {
        let one = "Version 2: 1 of 3 pods are Ready.";
        let two = "Version 2: 2 of 3 pods are Ready.";
        assert_ne!(without_figures(one), without_figures(two));
        let told = |pods| without_figures(&format!("0 errors in 40 requests. {pods}"));
        assert_eq!(
            told(one),
            "# errors in # requests. Version 2: 1 of 3 pods are Ready."
        );
        assert_ne!(told(one), told(two));
    }
}
