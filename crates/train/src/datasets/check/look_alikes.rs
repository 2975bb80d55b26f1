//! Groups of images that look alike, whatever their classes: copies that were encoded again,
//! resized or mirrored, and the photos of a series.

use rayon::prelude::*;

use crate::datasets::check::copies::Nearness;
use crate::datasets::check::image_hash::{HashIndex, ImageHash};
use crate::datasets::image_folder::ImageFolder;
use transforms::decode::{DecodeScratch, EncodedImage};

/// Differing bits up to which images count as copies, where no flag says otherwise.
pub(crate) const DISTANCE: u32 = 4;

/// Levels of 255 up to which images count as copies, where no flag says otherwise.
pub(crate) const DIFFERENCE: f64 = 2.0;

const NEARNESS: Nearness = Nearness { distance: DISTANCE, difference: DIFFERENCE };

/// Edge in pixels at which a large JPEG is decoded to be looked at: the hash has 9 x 8 cells.
const LOOK: usize = 72;

/// The group of every image: the number of its first member. An image that cannot be read, or has
/// no contrast, is a group by itself.
pub(crate) fn look_alikes(folder: &ImageFolder) -> Vec<usize> {
    let count = folder.items.len();
    let hashes: Vec<Option<ImageHash>> = (0..count)
        .into_par_iter()
        .map_init(<(Vec<u8>, DecodeScratch)>::default, |(bytes, scratch), index| {
            folder.read_bytes(index, bytes).ok()?;
            look(bytes, scratch).filter(|hash| !hash.is_flat())
        })
        .collect();
    let known: Vec<usize> = (0..count).filter(|&i| hashes[i].is_some()).collect();
    let hash = |number: usize| hashes[known[number]].as_ref().expect("a known look");
    let index = HashIndex::new((0..known.len()).map(|i| hash(i).hash()).collect());
    let pairs: Vec<(usize, usize)> = (0..known.len())
        .into_par_iter()
        .flat_map_iter(|number| {
            let own = hash(number);
            let both = [own.clone(), own.mirrored()];
            let near = both.into_iter().flat_map(|look| {
                let found = index.within(look.hash(), NEARNESS.distance);
                let alike = found.into_iter().filter(|&other| other < number);
                let alike = alike.filter(|&other| NEARNESS.alike(hash(other), &look));
                alike.collect::<Vec<_>>()
            });
            near.map(|other| (known[other], known[number])).collect::<Vec<_>>()
        })
        .collect();
    unite(count, &pairs)
}

/// The look of an encoded image; of a large JPEG at a fraction of its size.
fn look(bytes: &[u8], scratch: &mut DecodeScratch) -> Option<ImageHash> {
    let image = EncodedImage::open(bytes, true).ok()?;
    let whole = image.whole();
    let edge = whole.height.min(whole.width);
    let shrink = [8, 4, 2].into_iter().find(|shrink| edge / shrink >= LOOK).unwrap_or(1);
    let (pixels, _) = image.region(whole, shrink, scratch).ok()?;
    Some(ImageHash::of(pixels))
}

/// The smallest member of every element's group, where the pairs are united.
fn unite(count: usize, pairs: &[(usize, usize)]) -> Vec<usize> {
    fn root(parent: &mut [usize], mut of: usize) -> usize {
        while parent[of] != of {
            parent[of] = parent[parent[of]];
            of = parent[of];
        }
        of
    }
    let mut parent: Vec<usize> = (0..count).collect();
    for &(a, b) in pairs {
        let (a, b) = (root(&mut parent, a), root(&mut parent, b));
        parent[a.max(b)] = a.min(b);
    }
    (0..count).map(|i| root(&mut parent, i)).collect()
}

#[cfg(test)]
mod tests {
    use super::unite;

    /// Mutations caught: groups named by their last member.
    #[test]
    fn pairs_that_share_a_member_are_one_group() {
        assert_eq!(unite(6, &[(1, 4), (4, 5), (0, 2)]), [0, 1, 0, 3, 1, 1]);
        assert_eq!(unite(2, &[]), [0, 1]);
    }
}
