// Package refusal is how a problem travels as the error of a gRPC call: with the code that tells a client whether to
// come again, and the problem itself as a detail. services/collect and services/push write it; Go programs that call
// them read it.
package refusal

import (
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/weftpush/weft/shared/problem"
	weftv1 "github.com/weftpush/weft/shared/proto/weft/v1"
	"github.com/weftpush/weft/shared/protocol"
)

// Of is the error that refuses a call for the problem in err's chain (see problem.From), with further details behind the
// Problem.
func Of(err error, details ...proto.Message) *connect.Error {
	p := problem.From(err)
	return build(code(p), Message(p), details...)
}

// Close is the error that ends a session: its code follows from the close code, as a client's conduct does. A session
// that ends without a problem (CloseNormal: somebody hung up) is Unavailable: come again.
func Close(with protocol.CloseCode, p *problem.Problem) *connect.Error {
	if p == nil {
		p = &problem.Problem{Code: problem.Unavailable, Message: "the session has ended; connect again", Retry: true}
	}
	detail := Message(p)
	detail.Close = uint32(with) //nolint:gosec // four digits
	detail.Retry = !with.Fatal()
	return build(closeCode(with), detail)
}

// Message is a problem as the proto has it.
func Message(p *problem.Problem) *weftv1.Problem {
	return &weftv1.Problem{Code: string(p.Code), Message: p.Message, Field: p.Field, Retry: p.Retry}
}

// Detail finds the first detail of a kind in an error of a call, such as *weftv1.Problem; ok is false when there is none:
// the connection broke, or somebody in between refused.
func Detail[M proto.Message](err error) (detail M, ok bool) {
	failed, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return detail, false
	}
	for _, d := range failed.Details() {
		if value, err := d.Value(); err == nil {
			if detail, ok = value.(M); ok {
				return detail, true
			}
		}
	}
	return detail, false
}

func build(code connect.Code, p *weftv1.Problem, more ...proto.Message) *connect.Error {
	e := connect.NewError(code, errors.New(p.GetCode()+": "+p.GetMessage()))
	for _, m := range append([]proto.Message{p}, more...) {
		if d, err := connect.NewErrorDetail(m); err == nil { // it always marshals
			e.AddDetail(d)
		}
	}
	return e
}

// code is the gRPC code of a problem. Only InvalidArgument, PermissionDenied and FailedPrecondition are final.
func code(p *problem.Problem) connect.Code {
	switch p.Code {
	case problem.Unauthorized, problem.TokenExpired:
		return connect.CodeUnauthenticated
	case problem.Forbidden:
		return connect.CodePermissionDenied
	case problem.Kicked:
		if !p.Retry {
			return connect.CodePermissionDenied
		}
		return connect.CodeUnavailable
	case problem.Conflict, problem.Replaced:
		return connect.CodeFailedPrecondition
	case problem.Unavailable, problem.Draining:
		return connect.CodeUnavailable
	case problem.Busy:
		return connect.CodeResourceExhausted
	case problem.TooSlow, problem.Silent:
		return connect.CodeDeadlineExceeded
	case problem.InternalFault:
		return connect.CodeInternal
	default:
		return connect.CodeInvalidArgument
	}
}

// closeCode is the gRPC code that tells a client the same as a close code.
func closeCode(with protocol.CloseCode) connect.Code {
	switch with {
	case protocol.CloseProtocol, protocol.CloseTooLarge:
		return connect.CodeInvalidArgument
	case protocol.CloseToken:
		return connect.CodeUnauthenticated
	case protocol.CloseForbidden:
		return connect.CodePermissionDenied
	case protocol.CloseSlow:
		return connect.CodeDeadlineExceeded
	case protocol.CloseReplaced:
		return connect.CodeFailedPrecondition
	case protocol.CloseBackOff:
		return connect.CodeResourceExhausted
	default:
		return connect.CodeUnavailable
	}
}
