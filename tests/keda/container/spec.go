// Package container starts one container's process: the part that runs inside its namespaces.
package container

// A Spec says everything about a container's process. The node writes it as JSON to descriptor 3.
type Spec struct {
	Hostname string
	Root     string // the folder that the root file system is mounted on, in a mount namespace of the container's own
	ReadOnly bool   // the root file system, not its mounts
	Links    []Link // symbolic links of the root file system
	Files    map[string]string
	Mounts   []Mount
	Args     []string // the program and its arguments; looked up in PATH of Env
	Env      []string
	Dir      string
	User     uint32
	Group    uint32
	Groups   []uint32
	// Privileges that the process keeps. Another user than root has none in any case.
	NoNewPrivileges  bool
	DropCapabilities bool
	// The namespaces to enter, by path. A new container enters its pod's network only; a program that is
	// run in a container enters all of the container's.
	Network string
	Mount   string
}

// A Mount binds a file or folder of the machine into the container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// A Link is a symbolic link at Path that holds Target.
type Link struct{ Target, Path string }
