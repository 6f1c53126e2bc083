// Package embed runs the servers that Weft stands on inside this process, for `weft dev` and for tests: nats-server
// with JetStream and the partition mapping, and a Redis. Nothing else may import it: services speak to servers, they
// do not contain them.
//
// The tests of shared/fabric, shared/partition and nats/ live here too, because they need a server and the shared
// module itself must not depend on one.
package embed
