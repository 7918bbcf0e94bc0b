package scenario

import (
	"context"
	"fmt"
	"strings"

	pb "github.com/kedacore/keda/v2/pkg/scalers/externalscaler"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// obstacles makes what the queries `locked` and `of-tenant` fail by, and returns what takes it away: a lock on a table, and
// streams that use up what one namespace may hold.
func (w *World) obstacles(ctx context.Context) (func(), error) {
	release, err := w.lock(ctx)
	if err != nil {
		return nil, err
	}
	leave, err := w.crowd(ctx)
	if err != nil {
		release()
		return nil, err
	}
	return func() { leave(); release() }, nil
}

// lock makes the table `locked`, and holds a lock on it.
func (w *World) lock(ctx context.Context) (func(), error) {
	if _, err := w.SQL(ctx, "CREATE TABLE locked (); GRANT SELECT ON locked TO clapometer"); err != nil {
		return nil, err
	}
	holder, err := w.connect(ctx, Database{clapsNamespace, "my-release-postgresql", "postgres"})
	if err != nil {
		return nil, err
	}
	release := func() {
		ctx := context.WithoutCancel(ctx)
		_ = holder.Close(ctx)
		_, _ = w.SQL(ctx, "DROP TABLE locked")
	}
	if _, err := holder.Exec(ctx, "BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE"); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// crowd opens streams with long parameters until the namespace's share has no byte left.
func (w *World) crowd(ctx context.Context) (func(), error) {
	address, err := w.ServiceAddress(ctx, ownNamespace, "failing-queries")
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(address+":9090", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	leave := func() { _ = connection.Close() }
	opened := 0
	for length := 60_000; length > 0; {
		stream, err := pb.NewExternalScalerClient(connection).StreamIsActive(ctx, &pb.ScaledObjectRef{
			Name: fmt.Sprintf("stream-%d", opened), Namespace: crowded,
			ScalerMetadata: map[string]string{"query": "of-tenant", "param.tenant": fmt.Sprintf("%0*d", length, opened)},
		})
		if err == nil {
			// The first message comes when the query is held.
			_, err = stream.Recv()
		}
		switch {
		case err == nil:
			opened++
		case status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "this namespace holds its share"):
			length /= 2
		default:
			leave()
			return nil, fmt.Errorf("stream %d of the namespace %s: %w", opened, crowded, err)
		}
	}
	return leave, nil
}
