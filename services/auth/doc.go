// Package auth says who somebody is: it verifies signed tokens for the services that were shown one.
//
// It answers on two subjects, as the NATS micro service "weft-auth" (`nats micro info weft-auth`):
//
//   - subject.AuthVerify: identity.VerifyRequest → identity.Identity;
//   - subject.AuthIssue, only with Config.Issue: IssueRequest → IssueAnswer.
//
// Any number of instances share the work through a queue group. An instance keeps no state but its keys, which it
// reads once: a changed key needs a new start. It owns no goroutine besides Run; the NATS client calls the handlers,
// one at a time per endpoint (an Ed25519 check takes 0.1 ms). Tokens are never logged and never part of an error.
package auth
