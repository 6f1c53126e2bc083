// Package partition decides which instance of a stage works on which partition, and reads a partition's stream
// without holes and without reordering.
//
// Own keeps one lease per partition in the bucket fabric.OwnersBucket. Ownership is for speed and order, not for
// safety: a paused owner may go on working for a while after another has taken over, and the archive's unique keys
// keep that harmless.
//
// Read takes deliveries of one consumer only as long as their consumer sequences are dense, and resets the consumer
// when they are not.
//
// What both do under failure is tested in shared/embed, against real servers; here only what needs none.
package partition
