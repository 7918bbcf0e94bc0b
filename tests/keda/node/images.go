package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clapometer/tests/keda/container"
)

// An Image says what a container of that image runs. Every container sees the machine's programs and
// libraries, read-only, because executables that were not built for an empty root need them.
type Image struct {
	Entrypoint []string
	Command    []string
	Env        []string
	User       uint32
	Mounts     []container.Mount
	StopSignal syscall.Signal // SIGTERM unless set
}

// Images are what stands in the node's store, by the last part of their names: `postgres` is
// docker.io/library/postgres:17, too.
type Images struct {
	byName map[string]Image
	links  []container.Link
	mounts []container.Mount
}

// NewImages takes the images, and looks up how the machine lays out its programs.
func NewImages(byName map[string]Image) (Images, error) {
	images := Images{byName: byName}
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ssl", "/etc/ld.so.cache", "/etc/alternatives"} {
		about, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return Images{}, err
		case about.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(dir)
			if err != nil {
				return Images{}, err
			}
			images.links = append(images.links, container.Link{Path: dir, Target: target})
		default:
			images.mounts = append(images.mounts, container.Mount{Source: dir, Target: dir, ReadOnly: true})
		}
	}
	return images, nil
}

// baseFiles are what glibc and PostgreSQL's programs look for.
var baseFiles = map[string]string{
	"etc/passwd":        "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\nnonroot:x:65532:65532::/:/sbin/nologin\n",
	"etc/group":         "root:x:0:\npostgres:x:999:\nnonroot:x:65532:\n",
	"etc/nsswitch.conf": "hosts: files dns\n",
}

func (i Images) find(name string) (Image, error) {
	last := path.Base(name)
	last, _, _ = strings.Cut(last, "@")
	last, _, _ = strings.Cut(last, ":")
	if image, found := i.byName[last]; found {
		return image, nil
	}
	return Image{}, status.Errorf(codes.NotFound, "this node has no image %q", name)
}

func (i Images) describe(name string) (*cri.Image, error) {
	image, err := i.find(name)
	if err != nil {
		return nil, err
	}
	return &cri.Image{Id: name, RepoTags: []string{name}, Size: 1, Uid: &cri.Int64Value{Value: int64(image.User)}}, nil
}

// ImageStatus describes an image, or nothing if it is not there.
func (r *Runtime) ImageStatus(_ context.Context, request *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	image, err := r.images.describe(request.Image.Image)
	if err != nil {
		return &cri.ImageStatusResponse{}, nil
	}
	return &cri.ImageStatusResponse{Image: image}, nil
}

// PullImage succeeds for the images that are there.
func (r *Runtime) PullImage(_ context.Context, request *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	image, err := r.images.describe(request.Image.Image)
	if err != nil {
		return nil, err
	}
	return &cri.PullImageResponse{ImageRef: image.Id}, nil
}

// ListImages lists nothing: the kubelet asks only to find what it may delete.
func (r *Runtime) ListImages(context.Context, *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	return &cri.ListImagesResponse{}, nil
}

// RemoveImage refuses.
func (r *Runtime) RemoveImage(_ context.Context, request *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	return nil, fmt.Errorf("image %q stays", request.Image.Image)
}

// ImageFsInfo names the file system of the runtime's folder.
func (r *Runtime) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	usage := []*cri.FilesystemUsage{{
		FsId: &cri.FilesystemIdentifier{Mountpoint: r.dir}, UsedBytes: &cri.UInt64Value{}, InodesUsed: &cri.UInt64Value{},
	}}
	return &cri.ImageFsInfoResponse{ImageFilesystems: usage, ContainerFilesystems: usage}, nil
}
