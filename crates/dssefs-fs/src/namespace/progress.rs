//! Whether a listing gets on: a store decides how many pages there are, and must not decide that there is no end.

use super::Namespace;
use super::error::Error;
use dssefs_s3::s3::{ListRequest, Listed};

/// Pages in a row that may bring nothing new. S3 gives empty ones where it passes over many deleted keys.
const IDLE_PAGES_MAX: u32 = 1000;

/// Counts the pages of one listing that bring nothing.
#[derive(Debug, Default)]
pub(super) struct Progress {
    idle_pages: u32,
}

impl Progress {
    /// Takes note of a page of the listing of `directory` (a prefix), and whether it brought something.
    ///
    /// # Errors
    /// [`Error::EndlessListing`] when [`IDLE_PAGES_MAX`] in a row brought nothing.
    pub(super) fn page(&mut self, directory: &str, brought: bool) -> Result<(), Error> {
        self.idle_pages = if brought { 0 } else { self.idle_pages + 1 };
        if self.idle_pages >= IDLE_PAGES_MAX {
            return Err(Error::EndlessListing { directory: directory.to_owned(), pages: self.idle_pages });
        }
        Ok(())
    }
}

impl Namespace {
    /// The first `count` objects (at most 1,000) whose keys begin with `prefix`, or all if there are fewer. A page may
    /// have fewer than were asked for, and none at all, with more behind it. One LIST where it has as many.
    ///
    /// # Errors
    /// As S3 answers, and [`Error::EndlessListing`].
    pub(super) async fn first_below(&self, prefix: &str, count: u16) -> Result<Vec<Listed>, Error> {
        let (mut found, mut next, mut progress) = (Vec::new(), None::<String>, Progress::default());
        loop {
            let continuation = next.as_deref();
            let request = ListRequest { prefix, delimiter: false, start_after: None, continuation, entries_max: count };
            let page = self.gateway.list(&request).await?;
            progress.page(prefix, !page.objects.is_empty())?;
            found.extend(page.objects);
            next = page.next;
            if next.is_none() || found.len() >= count.into() {
                found.truncate(count.into());
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_pages_in_a_row_without_a_name_are_the_end() {
        let mut progress = Progress::default();
        for nth in 0..5000 {
            progress.page("d/", nth % 999 == 0).unwrap();
        }
        let mut idle = Progress::default();
        let ended = (0..1000).map(|_| idle.page("d/", false)).position(|page| page.is_err());
        assert_eq!(ended, Some(999));
    }
}
